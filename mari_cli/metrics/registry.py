"""Every metric's name, unit, direction, range, source and degenerate value: what it takes to print a number.

Full names are `group/metric`. The metrics of answers exist for each set of items, and what counts as better
depends on the set: retained answers should stay known, forgotten ones should look as they do to the gold
model (the one trained without them), unseen ones should be left alone.
"""

from dataclasses import dataclass, replace
from math import inf, log
from typing import Literal

from mari_cli.errors import UserError, nearest

Direction = Literal["up", "down", "gold"]


@dataclass(frozen=True)
class Metric:
    """``low`` and ``high`` bound every possible value; ``direction`` `gold`: best = the gold model's."""

    name: str
    label: str
    unit: str
    direction: Direction
    low: float
    high: float
    description: str
    source: str
    degenerate: str


_NO_TOKENS = "an answer without tokens is refused"

ANSWER_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="answer_nll",
            label="answer NLL",
            unit="nats/token",
            direction="down",
            low=0.0,
            high=inf,
            description="mean over items of the mean token loss of the answer",
            source="TOFU, Maini et al. 2024",
            degenerate=_NO_TOKENS,
        ),
        Metric(
            name="answer_probability",
            label="answer probability",
            unit="probability",
            direction="up",
            low=0.0,
            high=1.0,
            description="mean over items of exp(-mean token loss of the answer)",
            source="TOFU, Maini et al. 2024",
            degenerate=_NO_TOKENS,
        ),
        Metric(
            name="token_accuracy",
            label="token accuracy",
            unit="fraction of tokens",
            direction="up",
            low=0.0,
            high=1.0,
            description="share of all the set's answer tokens that are predicted right under teacher forcing",
            source="exact memorization pooled over tokens; the accuracy of Forgetting-MarI's stop rule",
            degenerate="long answers weigh more; a set without tokens is refused",
        ),
        Metric(
            name="exact_match",
            label="exact match",
            unit="fraction of items",
            direction="up",
            low=0.0,
            high=1.0,
            description="share of items whose greedy teacher-forced tokens all equal the answer",
            source="Carlini et al. 2021, under teacher forcing",
            degenerate=_NO_TOKENS,
        ),
        Metric(
            name="exact_memorization",
            label="exact memorization",
            unit="fraction",
            direction="up",
            low=0.0,
            high=1.0,
            description="mean over items of the share of positions where the argmax equals the label",
            source="Tirumala et al. 2022",
            degenerate=_NO_TOKENS,
        ),
        Metric(
            name="extraction_strength",
            label="extraction strength",
            unit="fraction",
            direction="up",
            low=0.0,
            high=1.0,
            description="mean over items of 1 - k/T, k the shortest prefix after which every token is right",
            source="Carlini et al. 2021; corrected where the last token is wrong",
            degenerate="0 when the last token is wrong, 1 when all are right; " + _NO_TOKENS,
        ),
        Metric(
            name="perplexity",
            label="perplexity",
            unit="1",
            direction="down",
            low=1.0,
            high=inf,
            description="exp of the mean loss over all answer tokens of the set",
            source="standard, token-weighted",
            degenerate="infinite past a mean loss of 709 nats; a set without tokens is refused",
        ),
        Metric(
            name="verbatim_rouge_l",
            label="ROUGE-L recall",
            unit="fraction",
            direction="up",
            low=0.0,
            high=1.0,
            description="mean over items of the greedily generated answer's ROUGE-L recall, with stemmer",
            source="TOFU, Maini et al. 2024; rouge-score",
            degenerate="0 for an empty generation and for text without a-z and 0-9, which rouge-score skips",
        ),
    )
}
"""Metrics of a set of answers by bare name; the direction is that of data which should stay known."""

SETS: dict[str, str] = {"forget": "forget", "retain": "retain", "holdout": "holdout"}
"""Sets of items and the words before a label."""


def _of_set(name: str, metric: Metric) -> Metric:
    return replace(
        metric,
        name=f"{name}/{metric.name}",
        label=f"{SETS[name]} {metric.label}",
        direction=metric.direction if name == "retain" else "gold",
    )


_MUSE: tuple[tuple[str, str, Direction, str], ...] = (
    ("verbatim_forget", "verbatim memorization", "gold", "the continuation of passages to be forgotten"),
    ("knowledge_forget", "knowledge, forget", "gold", "answers to questions after the forget set"),
    ("knowledge_retain", "knowledge, retain", "up", "answers to questions after the retain set"),
)
_RWKU = (
    ("forget_level1", "forget, blanks", "blanks about the person to be forgotten"),
    ("forget_level2", "forget, questions", "questions about the person to be forgotten"),
    ("forget_level3", "forget, adversarial", "adversarial questions about the person to be forgotten"),
    ("neighbor_level1", "neighbours, blanks", "blanks about what is related to that person"),
    ("neighbor_level2", "neighbours, questions", "questions about what is related to that person"),
)
_RWKU_PASSAGES: tuple[tuple[str, Direction, str], ...] = (
    ("forget", "gold", "about the person to be forgotten"),
    ("retain", "down", "about others"),
)

METRICS: dict[str, Metric] = {
    **{f"{name}/{bare}": _of_set(name, metric) for name in SETS for bare, metric in ANSWER_METRICS.items()},
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
    "marginal/pooled": Metric(
        name="marginal/pooled",
        label="marginal information, pooled",
        unit="nats",
        direction="down",
        low=0.0,
        high=log(2),
        description="what one token tells of whether forget data took part: I(X;Z) of the mean predictions "
        "over the whole retain and forget sets",
        source="Xu, Ni, Broecker, Strohmer 2025 (Forgetting-MarI), weighting ours",
        degenerate="0 when the mean predictions coincide; biased upwards by finite sets",
    ),
    "marginal/token": Metric(
        name="marginal/token",
        label="marginal information, by position",
        unit="nats",
        direction="down",
        low=0.0,
        high=log(2),
        description="I(X;Z|C) with C the position in the answer, over the whole retain and forget sets",
        source="Xu, Ni, Broecker, Strohmer 2025 (Forgetting-MarI), weighting ours",
        degenerate="a position that only one set reaches adds 0; biased upwards by finite sets",
    ),
    "marginal/fano_accuracy_bound": Metric(
        name="marginal/fano_accuracy_bound",
        label="detector accuracy, Fano bound",
        unit="fraction",
        direction="down",
        low=0.5,
        high=1.0,
        description="no detector that sees one token is right more often; from the pooled information",
        source="Fano 1961",
        degenerate="the larger prior (0.5) at zero information",
    ),
    "marginal/bayes_accuracy": Metric(
        name="marginal/bayes_accuracy",
        label="detector accuracy, best possible",
        unit="fraction",
        direction="down",
        low=0.5,
        high=1.0,
        description="accuracy of the best detector that sees one token, 1/2 + TV/2; never above Fano's bound",
        source="Bayes detector between the two pooled predictions",
        degenerate="the larger prior (0.5) when the predictions coincide",
    ),
    "marginal/tv": Metric(
        name="marginal/tv",
        label="total variation",
        unit="fraction",
        direction="down",
        low=0.0,
        high=1.0,
        description="total variation between the pooled predictions of retain and of retain + forget",
        source="standard",
        degenerate="0 when the predictions coincide",
    ),
    "facts/unique_recall": Metric(
        name="facts/unique_recall",
        label="unique-fact recall",
        unit="fraction of items",
        direction="gold",
        low=0.0,
        high=1.0,
        description="generated answers that name it, of forget questions after a fact stated nowhere else",
        source="this project's fictional corpus",
        degenerate="absent where the corpus does not know its facts",
    ),
    "facts/shared_recall": Metric(
        name="facts/shared_recall",
        label="shared-fact recall",
        unit="fraction of items",
        direction="up",
        low=0.0,
        high=1.0,
        description="generated answers that name it, of forget questions after a fact that retained "
        "documents state too",
        source="this project's fictional corpus",
        degenerate="absent where the corpus does not know its facts",
    ),
    **{
        f"muse/{name}": Metric(
            name=f"muse/{name}",
            label=f"MUSE {label}",
            unit="fraction",
            direction=direction,
            low=0.0,
            high=1.0,
            description=f"mean over items of the ROUGE-L F1, without stemmer, of {what}",
            source="Shi et al. 2024 (MUSE), there in percent; rouge-score",
            degenerate=ANSWER_METRICS["verbatim_rouge_l"].degenerate,
        )
        for name, label, direction, what in _MUSE
    },
    "muse/min_k_auc": Metric(
        name="muse/min_k_auc",
        label="MUSE min-k AUC",
        unit="ROC AUC",
        direction="gold",
        low=0.0,
        high=1.0,
        description="membership inference by min-k (40 %), passages to be forgotten against unseen ones: 1 = "
        "they look trained on. MUSE has 1 - AUC",
        source="Shi et al. 2024 (MUSE)",
        degenerate="0.5 when all scores tie",
    ),
    "muse/privleak": Metric(
        name="muse/privleak",
        label="MUSE privleak",
        unit="%",
        direction="gold",
        low=-100.0,
        high=inf,
        description="how far 1 - AUC of MUSE min-k is from gold's, relative to it: negative = looks trained "
        "on, 0 = as gold, positive = over-forgotten",
        source="Shi et al. 2024 (MUSE)",
        degenerate="absent without a gold model, and where gold's AUC is 1",
    ),
    **{
        f"rwku/{name}": Metric(
            name=f"rwku/{name}",
            label=f"RWKU {label}",
            unit="fraction",
            direction="up" if name.startswith("neighbor") else "gold",
            low=0.0,
            high=1.0,
            description=f"mean over items of the ROUGE-L recall, without stemmer, of answers to {what}",
            source="Jin et al. 2024 (RWKU); rouge-score",
            degenerate=ANSWER_METRICS["verbatim_rouge_l"].degenerate,
        )
        for name, label, what in _RWKU
    },
    **{
        f"rwku/mia_{side}_nll": Metric(
            name=f"rwku/mia_{side}_nll",
            label=f"RWKU {side} passages' NLL",
            unit="nats/token",
            direction=direction,
            low=0.0,
            high=inf,
            description=f"mean over passages of the mean token loss, {what}",
            source="Jin et al. 2024 (RWKU)",
            degenerate=_NO_TOKENS,
        )
        for side, direction, what in _RWKU_PASSAGES
    },
    "benchmark/mmlu": Metric(
        name="benchmark/mmlu",
        label="MMLU",
        unit="accuracy",
        direction="up",
        low=0.0,
        high=1.0,
        description="zero-shot accuracy on four-choice questions of 57 subjects, through lm_eval",
        source="Hendrycks et al. 2021",
        degenerate="0.25 is chance",
    ),
}
"""Every metric by full name."""


_LOGGED = {"forget": "memorization", "facts": "memorization", "retain": "utility", "holdout": "utility"}


def logged_as(full_name: str) -> str:
    """The name under which a metric is followed in metrics.jsonl and by a tracker: grouped by what it says.

    `forget/answer_nll` is `memorization/forget/answer_nll`, `retain/…` is `utility/retain/…`; the rest, as
    `privacy/loss_auc` and `benchmark/mmlu`, say so themselves.
    """
    group = _LOGGED.get(full_name.partition("/")[0])
    return f"{group}/{full_name}" if group else full_name


def as_logged(name: str) -> str:
    """The metric's full name, from `logged_as`."""
    group, _, rest = name.partition("/")
    return rest if group in _LOGGED.values() else name


def describe(full_name: str) -> Metric:
    """The metric of that full name, as in `forget/answer_nll`."""
    if full_name not in METRICS:
        guess = nearest(full_name, METRICS)
        raise UserError(f"unknown metric `{full_name}`", f"did you mean `{guess}`?" if guess else None)
    return METRICS[full_name]
