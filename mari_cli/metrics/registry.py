"""Every metric's name, unit, direction, range, source and degenerate value: what it takes to print a number.

Full names are `group/metric`. The metrics of answers exist for each set of items, and what counts as better
depends on the set: retained answers should stay known, forgotten ones should look as they do to the gold
model (the one trained without them), unseen ones should be left alone.
"""

from collections.abc import Iterator
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


TOFU_SETS: dict[str, str] = {
    "forget": "TOFU forget",
    "retain": "TOFU retain",
    "authors": "TOFU real authors'",
    "facts": "TOFU world facts'",
}
"""TOFU's sets of questions and the words before a label."""


def _tofu() -> Iterator[Metric]:
    """Metrics of TOFU. What takes the arithmetic mean in a truth ratio has a name of its own."""
    share = Metric(
        name="",
        label="",
        unit="fraction",
        direction="up",
        low=0.0,
        high=1.0,
        description="",
        source="TOFU, Maini et al. 2024",
        degenerate="a set without items is left out",
    )
    gold = "absent without a gold model"
    yield replace(
        share,
        name="tofu/forget_quality",
        label="TOFU forget quality",
        unit="p-value",
        description="p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios of forget "
        "items under the model and under the gold model: small = they are told apart",
        degenerate=f"1 when all ratios are the same; {gold}",
    )
    yield replace(
        share,
        name="tofu/forget_quality_ks",
        label="TOFU forget quality, KS distance",
        direction="down",
        description="largest distance between the distributions of the forget items' truth ratios under the "
        "model and under the gold model",
        degenerate=f"0 when all ratios are the same; {gold}",
    )
    later = replace(share, source="TOFU's later code; not its published numbers")
    variants = (("", "", "geometric", share), ("_arithmetic", ", arithmetic", "arithmetic", later))
    for variant, words, _, base in variants:
        yield replace(
            base,
            name=f"tofu/model_utility{variant}",
            label=f"TOFU model utility{words}",
            description="harmonic mean of probability, ROUGE-L recall and truth ratio on retained questions, "
            "real authors and world facts",
            degenerate="0 when one of the nine is 0; absent where no answers were generated",
        )
    for name, label in TOFU_SETS.items():
        direction: Direction = "gold" if name == "forget" else "up"
        answers = (
            "p(answer) / sum of p of all answers offered" if name in ("authors", "facts") else "p(answer)"
        )
        yield replace(
            share,
            name=f"tofu/{name}/probability",
            label=f"{label} probability",
            unit="probability",
            direction=direction,
            description=f"mean over items of {answers}, p = exp(-mean token loss)",
        )
        for kind in ("L", "1"):
            yield replace(
                share,
                name=f"tofu/{name}/rouge_{kind.lower()}_recall",
                label=f"{label} ROUGE-{kind} recall",
                direction=direction,
                description=f"mean over items of the generated answer's ROUGE-{kind} recall, with stemmer",
                source="TOFU, Maini et al. 2024; rouge-score",
                degenerate=ANSWER_METRICS["verbatim_rouge_l"].degenerate,
            )
        form = "min(r, 1/r)" if name == "forget" else "max(0, 1 - r)"
        for variant, words, mean, base in variants:
            yield replace(
                base,
                name=f"tofu/{name}/truth_ratio{variant}",
                label=f"{label} truth ratio{words}",
                direction=direction,
                description=f"mean over items of {form}, r = p(wrong answers, {mean} mean) / p(paraphrase), "
                "p of one answer = exp(-mean token loss)",
            )
    for bare in ("extraction_strength", "exact_memorization"):
        metric = _of_set("forget", ANSWER_METRICS[bare])
        yield replace(metric, name=f"tofu/{metric.name}", label=f"TOFU {metric.label}")


METRICS: dict[str, Metric] = {
    **{f"{name}/{bare}": _of_set(name, metric) for name in SETS for bare, metric in ANSWER_METRICS.items()},
    "privacy/loss_auc": Metric(
        name="privacy/loss_auc",
        label="loss AUC",
        unit="ROC AUC",
        direction="gold",
        low=0.0,
        high=1.0,
        description="membership inference by the answer's loss, forget against holdout: 1 = forget looks "
        "trained on, below gold's = over-forgotten and just as visible",
        source="Yeom et al. 2018",
        degenerate="0.5 when all scores tie; an empty set is refused",
    ),
    "privacy/min_k_auc": Metric(
        name="privacy/min_k_auc",
        label="min-k AUC",
        unit="ROC AUC",
        direction="gold",
        low=0.0,
        high=1.0,
        description="membership inference by the mean log-probability of the least likely tokens (40 %, or "
        "`metrics.min_k`), forget against holdout: 1 = forget looks trained on",
        source="Shi et al. 2024 (Min-K% Prob)",
        degenerate="0.5 when all scores tie; an empty set is refused",
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
    **{metric.name: metric for metric in _tofu()},
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
