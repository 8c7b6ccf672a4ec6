"""Metrics of membership inference, forget against holdout."""

from math import inf

from mari_cli.metrics.metric import Metric

PRIVACY_METRICS: dict[str, Metric] = {
    **{
        f"privacy/{attack}_auc": Metric(
            name=f"privacy/{attack}_auc",
            label=f"{label} AUC",
            unit="ROC AUC",
            direction="gold",
            low=0.0,
            high=1.0,
            description=f"membership inference by {score}, forget against holdout: 1 = forget looks trained "
            "on, below gold's = over-forgotten and just as visible",
            source=source,
            degenerate="0.5 when all scores tie; an empty set is refused",
        )
        for attack, label, score, source in (
            ("loss", "loss", "the answer's loss", "Yeom et al. 2018"),
            (
                "zlib",
                "zlib",
                "the answer's loss over the bytes that zlib packs it into",
                "Carlini et al. 2021",
            ),
            (
                "min_k",
                "min-k",
                "the mean log-probability of the least likely tokens (40 %, or `metrics.min_k`)",
                "Shi et al. 2024 (Min-K% Prob)",
            ),
            (
                "min_k_plus_plus",
                "min-k++",
                "the mean of the lowest log-probabilities (40 %, or `metrics.min_k`), standardised by the "
                "model's own distribution at their position",
                "Zhang et al. 2024 (Min-K%++)",
            ),
            (
                "reference",
                "reference",
                "how far the answer's loss is below that of the model at `metrics.mia_reference`",
                "Carlini et al. 2021, as a difference: Watson et al. 2022",
            ),
            (
                "gradnorm",
                "gradient-norm",
                "the 2-norm of the gradient of the answer's loss over all parameters (`metrics.gradnorm`)",
                "Nasr et al. 2019; Wang et al. 2024",
            ),
        )
    },
    "privacy/loss_tpr_at_1_fpr": Metric(
        name="privacy/loss_tpr_at_1_fpr",
        label="loss TPR at 1 % FPR",
        unit="fraction of items",
        direction="gold",
        low=0.0,
        high=1.0,
        description="share of the forget items that the loss gives away at the threshold where at most 1 % "
        "of the holdout items are called trained on too; with fewer than 100 holdout items, where none is",
        source="Carlini et al. 2022",
        degenerate="0 when all scores tie; an empty set is refused",
    ),
    "privacy/worst_threshold_advantage": Metric(
        name="privacy/worst_threshold_advantage",
        label="worst threshold's advantage",
        unit="fraction of items",
        direction="gold",
        low=0.0,
        high=1.0,
        description="largest |TPR - FPR| over all thresholds on the answer's loss; the interval is no "
        "bootstrap but holds for any population (DKW): its upper end bounds what any threshold gives away",
        source="Kolmogorov-Smirnov distance; Massart 1990",
        degenerate="0 when all scores tie; an empty set is refused",
    ),
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
