"""Metrics of membership inference, forget against holdout."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from mari_cli.metrics.metric import Metric

ATTACKS: dict[str, tuple[str, str, str]] = {
    "loss": (
        "loss",
        "the answer's loss",
        "Yeom et al. 2018",
    ),
    "zlib": (
        "zlib",
        "the answer's loss over the bytes that zlib packs it into",
        "Carlini et al. 2021",
    ),
    "min_k": (
        "min-k",
        "the mean log-probability of the least likely tokens (40 %, or `metrics.min_k`)",
        "Shi et al. 2024 (Min-K% Prob)",
    ),
    "min_k_plus_plus": (
        "min-k++",
        "the mean of the lowest log-probabilities (40 %, or `metrics.min_k`), standardised by the "
        "model's own distribution at their position",
        "Zhang et al. 2024 (Min-K%++)",
    ),
    "reference": (
        "reference",
        "how far the answer's loss is below that of the model at `metrics.mia_reference`",
        "Carlini et al. 2021, as a difference: Watson et al. 2022",
    ),
    "gradnorm": (
        "gradient-norm",
        "the 2-norm of the gradient of the answer's loss over all parameters (`metrics.gradnorm`)",
        "Nasr et al. 2019; Wang et al. 2024",
    ),
}
"""By name: its label, what its score is, and where it is from."""


def advantage_of(attack: str) -> str:
    """The bare name of an attack's advantage at its worst threshold; the loss's has none before it."""
    return "worst_threshold_advantage" if attack == "loss" else f"{attack}_worst_threshold_advantage"


_SHARE = Metric(
    name="",
    label="",
    unit="fraction of items",
    direction="gold",
    low=0.0,
    high=1.0,
    description="",
    source="",
    degenerate="0 when all scores tie; an empty set is refused",
)


def _of_attacks() -> Iterator[Metric]:
    for attack, (label, score, source) in ATTACKS.items():
        yield replace(
            _SHARE,
            name=f"privacy/{attack}_auc",
            label=f"{label} AUC",
            unit="ROC AUC",
            description=f"membership inference by {score}, forget against holdout: 1 = forget looks trained "
            "on, below gold's = over-forgotten and just as visible",
            source=source,
            degenerate="0.5 when all scores tie; an empty set is refused",
        )
    for attack, (label, _, _) in ATTACKS.items():
        yield replace(
            _SHARE,
            name=f"privacy/{attack}_tpr_at_1_fpr",
            label=f"{label} TPR at 1 % FPR",
            description=f"share of the forget items that the {label} attack gives away at the threshold "
            "where at most 1 % of the holdout items are called trained on too; with fewer than 100 holdout "
            "items, where none is",
            source="Carlini et al. 2022",
        )
    for attack, (label, _, _) in ATTACKS.items():
        whose = "" if attack == "loss" else f"{label}, "
        yield replace(
            _SHARE,
            name=f"privacy/{advantage_of(attack)}",
            label=f"{whose}worst threshold's advantage",
            description=f"largest |TPR - FPR| over all thresholds of the {label} attack; the interval is "
            "no bootstrap but holds for any population (DKW): its upper end bounds what any threshold gives "
            "away",
            source="Kolmogorov-Smirnov distance; Massart 1990",
        )


PRIVACY_METRICS: dict[str, Metric] = {
    **{metric.name: metric for metric in _of_attacks()},
    "privacy/privleak": Metric(
        name="privacy/privleak",
        label="privleak",
        unit="%",
        direction="gold",
        low=-100.0,
        high=inf,
        description="how far 1 - AUC of min-k is from gold's, relative to it: negative = still looks trained "
        "on, 0 = as gold, positive = over-forgotten",
        source="Shi et al. 2024 (MUSE)",
        degenerate="absent without a gold model, and where gold's AUC is 1",
    ),
}
"""By full name."""
