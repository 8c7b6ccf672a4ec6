"""Metrics of the suites: TOFU, MUSE and RWKU."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from mari_cli.metrics.metric import Direction, Metric
from mari_cli.metrics.of_answers import ANSWER_METRICS, NO_TOKENS, of_set
from mari_cli.metrics.of_privacy import PRIVACY_METRICS

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
    yield replace(
        share,
        name="tofu/forget_quality_open_unlearning",
        label="TOFU forget quality, OpenUnlearning",
        unit="p-value",
        description="forget quality of truth ratios with 1e-10 added to p(paraphrase), as in OpenUnlearning: "
        "the same until a model collapses",
        source="OpenUnlearning; of its logs alone",
        degenerate=f"1 when all ratios are the same; {gold}",
    )
    later = replace(share, source="TOFU's later code; not its published numbers")
    theirs = replace(share, source="OpenUnlearning; of its logs alone")
    variants = (
        ("", "", "geometric mean", "p(paraphrase)", share),
        ("_arithmetic", ", arithmetic", "arithmetic mean", "p(paraphrase)", later),
        ("_open_unlearning", ", OpenUnlearning", "geometric mean", "(p(paraphrase) + 1e-10)", theirs),
    )
    for variant, words, *_, base in variants:
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
        if name == "forget":
            yield replace(
                share,
                name="tofu/forget/paraphrase_probability",
                label=f"{label} probability of the paraphrase",
                unit="probability",
                direction="gold",
                description="mean over items of p(paraphrased answer), p = exp(-mean token loss)",
                source="OpenUnlearning (forget_Q_A_PARA_Prob)",
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
        for variant, words, mean, below, base in variants:
            yield replace(
                base,
                name=f"tofu/{name}/truth_ratio{variant}",
                label=f"{label} truth ratio{words}",
                direction=direction,
                description=f"mean over items of {form}, r = p(wrong answers, {mean}) / {below}, "
                "p of one answer = exp(-mean token loss)",
            )
    for bare in ("extraction_strength", "exact_memorization"):
        metric = of_set("forget", ANSWER_METRICS[bare])
        metric = replace(metric, name=f"tofu/{metric.name}", label=f"TOFU {metric.label}")
        yield metric
        yield replace(
            metric,
            name=f"{metric.name}_open_unlearning",
            label=f"{metric.label}, OpenUnlearning",
            description=f"{metric.description}; as OpenUnlearning's log has it, without the EOS",
            source="OpenUnlearning",
        )
    yield from _of_privacy("tofu", "TOFU")
    for metric in _of_overall(share):
        yield metric
        yield replace(
            metric,
            name=f"{metric.name}_open_unlearning",
            label=f"{metric.label}, OpenUnlearning",
            description=f"{metric.description}; of what OpenUnlearning's logs and summaries hold, without "
            "the EOS and with 1e-10 in the truth ratio",
        )


def _of_overall(share: Metric) -> Iterator[Metric]:
    """The community's overall score and what it is the harmonic mean of."""
    study = "OpenUnlearning, Dorna et al. 2025; formulas of the analysis in arXiv 2605.31293"
    share = replace(share, source=study, degenerate="0 where one of its parts is 0")
    yield replace(
        share,
        name="tofu/memorization_score",
        label="TOFU memorization score",
        description="harmonic mean over the forget items' extraction strength, exact memorization, "
        "probability of the paraphrase and truth ratio of 1 less each",
    )
    yield replace(
        share,
        name="tofu/privacy_score",
        label="TOFU privacy score",
        description="harmonic mean over the attacks loss, zlib, min-k and min-k++ of 1 - |AUC - gold's AUC|",
        degenerate="0 where one of its parts is 0; absent without a gold model or a holdout",
    )
    without = "absent without the target; at a target of no utility undefined, and left out"
    for form, words, what in (
        ("", "", "the harmonic mean of model utility and fluency"),
        ("_without_fluency", ", without fluency", "model utility"),
    ):
        yield replace(
            share,
            name=f"tofu/utility_score{form}",
            label=f"TOFU utility score{words}",
            unit="1",
            high=inf,
            description=f"{what}, over the same of the target: above 1 where the model is more useful",
            degenerate=f"0 where one of its parts is 0; {without}",
        )
        yield replace(
            share,
            name=f"tofu/overall{form}",
            label=f"TOFU overall score{words}",
            unit="1",
            high=1.5,  # of two parts up to 1 and one without limit
            description=f"harmonic mean of the memorization, privacy and utility scores{words}",
            degenerate=f"0 where one of its parts is 0; {without}",
        )


def _of_privacy(suite: str, label: str) -> Iterator[Metric]:
    for name, metric in PRIVACY_METRICS.items():
        yield replace(
            metric, name=f"{suite}/{name.removeprefix('privacy/')}", label=f"{label} {metric.label}"
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

SUITE_METRICS: dict[str, Metric] = {
    **{metric.name: metric for metric in _tofu()},
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
    **{metric.name: metric for metric in _of_privacy("muse", "MUSE")},
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
            degenerate=NO_TOKENS,
        )
        for side, direction, what in _RWKU_PASSAGES
    },
}
"""By full name."""
