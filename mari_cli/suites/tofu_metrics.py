"""The metrics of TOFU (Maini et al. 2024), as results name them, and the columns that they need."""

from collections.abc import Iterator
from dataclasses import replace
from math import exp, expm1, inf, log
from typing import TYPE_CHECKING, Any

from mari_cli.metrics.aggregation import Aggregation, ByIntervals, Column, harmonic_mean, ks_distance, mean_of
from mari_cli.metrics.generation import NO_WORDS
from mari_cli.metrics.membership import ATTACKS, LOSS, membership_metrics
from mari_cli.metrics.memorization import EXACT_MEMORIZATION, EXTRACTION_STRENGTH
from mari_cli.metrics.metric import Direction, Metric

if TYPE_CHECKING:  # a table of metrics needs no numpy
    from mari_cli.metrics.items import ItemValues

SUITE = "tofu"
_SETS = {
    "forget": "TOFU forget",
    "retain": "TOFU retain",
    "authors": "TOFU real authors'",
    "facts": "TOFU world facts'",
}
"""TOFU's sets of questions, and the words before a label."""
PREFIXES = {"forget": "forget", "retain": "retain", "authors": "ra", "facts": "wf"}
"""The prefix of OpenUnlearning's metrics of each set."""
UTILITY = ("retain", "authors", "facts")
"""Sets of model utility."""
OFFERED = ("authors", "facts")
"""Sets whose probability is that of the true answer among all offered answers."""
HOLDOUT = "holdout"
"""Authors that no model has seen; of all logs only OpenUnlearning's have them."""
MEMBERSHIP = ("forget", HOLDOUT)
"""The two sets that membership inference separates."""
OPEN_UNLEARNING = "_open_unlearning"
"""The suffix of metrics that OpenUnlearning defines differently."""
VARIANTS = ("", "_arithmetic", OPEN_UNLEARNING)
"""Of a truth ratio: geometric mean over the wrong answers; arithmetic mean, under its own name; and in
OpenUnlearning's logs the geometric mean with 1e-10 added to p(paraphrase)."""
OF_TOKENS = (EXTRACTION_STRENGTH, EXACT_MEMORIZATION)
"""Metrics of the tokens of forget answers."""


def _log_truth_ratio(variant: str) -> Column:
    name = f"log_truth_ratio{variant}"

    def made_of(item: "ItemValues") -> float:
        if name in item.values:
            return item.values[name]
        plain = item.values[name.removeprefix("log_")]  # the name in results of earlier versions
        return log(plain) if plain > 0 else -inf

    return Column(name, label="" if variant else "log truth ratio", made_of=made_of)


def _truth_ratio(variant: str) -> Column:
    """Of a forget set: how near the truth ratio is to 1. Of other sets: how far it is below 1."""
    of_log = _log_truth_ratio(variant)

    def made_of(item: "ItemValues") -> float:
        log_ratio = of_log.of(item)
        return exp(-abs(log_ratio)) if item.set == "forget" else max(0.0, -expm1(min(log_ratio, 0.0)))

    return replace(of_log, made_of=made_of)


PROBABILITY = Column("probability", "probability")
ROUGE_L = Column("rouge_l_recall", "ROUGE-L", leads=True)


def _mean(column: Column, of_set: str) -> Aggregation:
    return mean_of(column).on(of_set, suite=SUITE)


def _tofu() -> Iterator[Metric]:
    """The metrics of TOFU. Those with an arithmetic mean in the truth ratio have names of their own."""
    share = Metric(
        name="",
        label="",
        description="",
        source="TOFU, Maini et al. 2024",
        degenerate="a set without items is left out",
        aggregate=ByIntervals(
            "p-values do not subtract; the distance behind them does", ("mari_cli.suites.tofu_numbers",)
        ),
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
        role="forgotten",
        headline=220,
        says="Forget quality: p-value of the test against gold",
        short="forget quality",
    )
    yield replace(
        share,
        name="tofu/forget_quality_ks",
        label="TOFU forget quality, KS distance",
        direction="down",
        description="largest distance between the distributions of the forget items' truth ratios under the "
        "model and under the gold model",
        degenerate=f"0 when all ratios are the same; {gold}",
        aggregate=Aggregation(
            ks_distance, (_log_truth_ratio(""),), ("forget",), suite=SUITE, beside_gold=True
        ),
        headline=230,
        views=frozenset({"terminal"}),
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
        elsewhere=("forget_quality",),
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
            aggregate=Aggregation(
                harmonic_mean, (PROBABILITY, ROUGE_L, _truth_ratio(variant)), UTILITY, suite=SUITE
            ),
            **({} if variant else _UTILITY_SHOWN),
        )
    for name, label in _SETS.items():
        direction: Direction = "gold" if name == "forget" else "up"
        answers = "p(answer) / sum of p of all answers offered" if name in OFFERED else "p(answer)"
        yield replace(
            share,
            name=f"tofu/{name}/probability",
            label=f"{label} probability",
            unit="probability",
            direction=direction,
            description=f"mean over items of {answers}, p = exp(-mean token loss)",
            aggregate=_mean(PROBABILITY, name),
            elsewhere=(f"{PREFIXES[name]}_Q_A_Prob" + ("_normalised" if name in OFFERED else ""),),
            **_shown(
                name,
                250,
                "Forget questions: probability of the true answer",
                "probability of the true answers",
            ),
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
                aggregate=_mean(Column("paraphrase_probability"), name),
            )
        for kind, column in (("L", ROUGE_L), ("1", Column("rouge_1_recall"))):
            told = "Forget questions: share of the true answer that is told (ROUGE-L recall)"
            yield replace(
                share,
                name=f"tofu/{name}/{column.name}",
                label=f"{label} ROUGE-{kind} recall",
                direction=direction,
                description=f"mean over items of the generated answer's ROUGE-{kind} recall, with stemmer",
                source="TOFU, Maini et al. 2024; rouge-score",
                degenerate=NO_WORDS,
                aggregate=_mean(column, name),
                elsewhere=(f"{PREFIXES[name]}_Q_A_ROUGE",) if kind == "L" else (),
                **(_shown(name, 260, told, "ROUGE-L recall") if kind == "L" else {}),
            )
        told = "Forget questions: truth ratio (1: true and wrong answers as likely)"
        form = "min(r, 1/r)" if name == "forget" else "max(0, 1 - r)"
        for variant, words, mean, below, base in variants:
            yield replace(
                base,
                name=f"tofu/{name}/truth_ratio{variant}",
                label=f"{label} truth ratio{words}",
                unit="ratio",
                direction=direction,
                description=f"mean over items of {form}, r = p(wrong answers, {mean}) / {below}, "
                "p of one answer = exp(-mean token loss)",
                aggregate=_mean(_truth_ratio(variant), name),
                elsewhere=()
                if variant
                else tuple(f"{PREFIXES[name]}_{t}ruth_{r}atio" for t, r in ("TR", "tr")),
                **({} if variant else _shown(name, 270, told, "truth ratio")),
            )
    for metric in OF_TOKENS:
        assert isinstance(metric.aggregate, Aggregation)
        entry = replace(
            metric,
            name=f"tofu/forget/{metric.name}",
            label=f"TOFU forget {metric.label}",
            direction="gold",
            aggregate=metric.aggregate.on("forget", suite=SUITE),
        )
        yield entry
        yield replace(
            entry,
            name=f"{entry.name}{OPEN_UNLEARNING}",
            label=f"{entry.label}, OpenUnlearning",
            description=f"{entry.description}; as OpenUnlearning's log has it, without the EOS",
            source="OpenUnlearning",
            aggregate=_mean(Column(f"{metric.name}{OPEN_UNLEARNING}"), "forget"),
            elsewhere=(metric.name,),
        )
    for metric in membership_metrics(SUITE, MEMBERSHIP, suite=SUITE, words="TOFU "):
        told = "Telling forget questions from unseen ones by the loss (AUC, 0.5 is guessing)"
        bare = metric.name.removeprefix(f"{SUITE}/")
        known = {f"{attack}_auc": f"mia_{attack}" for attack in ATTACKS} | {"privleak": "privleak"}
        shown = _shown("forget", 280, told, "detectability") if bare == f"{LOSS}_auc" else {}
        yield replace(metric, elsewhere=(known[bare],) if bare in known else (), **shown)
    for metric in _of_overall(share):
        yield metric
        yield replace(
            metric,
            name=f"{metric.name}{OPEN_UNLEARNING}",
            label=f"{metric.label}, OpenUnlearning",
            headline=None,
            description=f"{metric.description}; of what OpenUnlearning's logs and summaries hold, without "
            "the EOS and with 1e-10 in the truth ratio",
        )


def _of_overall(share: Metric) -> Iterator[Metric]:
    """The community's overall score and the scores of which it is the harmonic mean."""
    study = "OpenUnlearning, Dorna et al. 2025; formulas of the analysis in arXiv 2605.31293"
    share = replace(
        share,
        source=study,
        degenerate="0 where one of its parts is 0",
        aggregate=ByIntervals("it takes the items of three models", ("mari_cli.suites.tofu_overall",)),
    )
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
            high=1.5,  # of two scores up to 1 and one without limit
            description=f"harmonic mean of the memorization, privacy and utility scores{words}",
            degenerate=f"0 where one of its parts is 0; {without}",
            headline=210 if form else 200,
            views=frozenset({"terminal"}),
        )


_UTILITY_SHOWN: dict[str, Any] = {
    "role": "kept",
    "distance_term": 11,
    "headline": 240,
    "says": "Retained questions, real authors and world facts: model utility",
    "elsewhere": ("model_utility",),
}


def _shown(of_set: str, headline: int, says: str, short: str) -> dict[str, Any]:
    """Fields of an entry that a verdict uses if the forget questions were asked."""
    if of_set != "forget":
        return {}
    return {"role": "forgotten", "headline": headline, "says": says, "short": short}


METRICS = list(_tofu())
IN_LOGS_ALONE = {
    name: f"{name}{OPEN_UNLEARNING}" for name in (f"{SUITE}/forget_quality", f"{SUITE}/forget/truth_ratio")
}
"""The metrics that a log with truth ratios alone gives in place of those that need losses."""
