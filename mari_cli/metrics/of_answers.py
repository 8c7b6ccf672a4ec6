"""Metrics of a set of answers, for each set of items: what counts as better depends on the set."""

from dataclasses import replace
from math import inf

from mari_cli.metrics.metric import Metric

NO_TOKENS = "an answer without tokens is refused"

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
            degenerate=NO_TOKENS,
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
            degenerate=NO_TOKENS,
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
            degenerate=NO_TOKENS,
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
            degenerate=NO_TOKENS,
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
            degenerate="0 when the last token is wrong, 1 when all are right; " + NO_TOKENS,
        ),
        Metric(
            name="true_token_gap",
            label="true-token gap",
            unit="nats",
            direction="up",
            low=-inf,
            high=inf,
            description="mean over items of the mean over tokens of the true token's logit less the mean "
            "logit of the 5 likeliest other tokens",
            source="this project, after MASC (2606.02920)",
            degenerate="a small vocabulary is taken whole; " + NO_TOKENS,
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


def of_set(name: str, metric: Metric) -> Metric:
    return replace(
        metric,
        name=f"{name}/{metric.name}",
        label=f"{SETS[name]} {metric.label}",
        direction=metric.direction if name == "retain" else "gold",
    )
