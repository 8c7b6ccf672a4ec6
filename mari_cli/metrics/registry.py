"""Every metric's name, unit, direction, range, source and degenerate value: what it takes to print a number.

Full names are `group/metric`. The metrics of answers exist for each set of items, and what counts as better
depends on the set: retained answers should stay known, forgotten ones should look as they do to the gold
model (the one trained without them), unseen ones should be left alone.
"""

import re
from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Benchmark:
    """A task or group of lm_eval, as far as it is known here. Its name stands for its metric ``main``."""

    label: str
    main: str
    chance: float | None
    asks: str
    source: str
    direction: Direction | None = None
    """None: that of the metric."""


def _mmlu(part: str, subjects: str) -> Benchmark:
    return Benchmark(
        f"MMLU{part}", "acc", 0.25, f"four-choice questions of {subjects}", "Hendrycks et al. 2021"
    )


def _wmdp(part: str, subject: str) -> Benchmark:
    asks = f"four-choice questions whose answers {subject}"
    return Benchmark(f"WMDP{part}", "acc", 0.25, asks, "Li et al. 2024", "down")


BENCHMARKS: dict[str, Benchmark] = {
    "mmlu": _mmlu("", "57 subjects"),
    "mmlu_stem": _mmlu(" STEM", "its sciences and mathematics"),
    "mmlu_humanities": _mmlu(" humanities", "its humanities"),
    "mmlu_social_sciences": _mmlu(" social sciences", "its social sciences"),
    "mmlu_other": _mmlu(" other", "its other subjects"),
    "mmlu_sample": _mmlu(" (sample)", "57 subjects: the 281 development questions that lm_eval carries"),
    "arc_easy": Benchmark(
        "ARC-Easy", "acc", 0.25, "school science of mostly four choices", "Clark et al. 2018"
    ),
    "arc_challenge": Benchmark(
        "ARC-Challenge",
        "acc_norm",
        0.25,
        "harder school science",
        "Clark et al. 2018",
    ),
    "piqa": Benchmark("PIQA", "acc", 0.5, "which of two ways reaches an everyday goal", "Bisk et al. 2020"),
    "hellaswag": Benchmark(
        "HellaSwag", "acc_norm", 0.25, "which of four endings a short text has", "Zellers et al. 2019"
    ),
    "winogrande": Benchmark(
        "WinoGrande", "acc", 0.5, "which of two nouns a sentence means", "Sakaguchi et al. 2020"
    ),
    "openbookqa": Benchmark(
        "OpenBookQA", "acc_norm", 0.25, "four-choice questions of elementary science", "Mihaylov et al. 2018"
    ),
    "sciq": Benchmark("SciQ", "acc", 0.25, "four-choice questions of science", "Welbl et al. 2017"),
    "boolq": Benchmark("BoolQ", "acc", 0.5, "yes or no, after a passage", "Clark et al. 2019"),
    "lambada_openai": Benchmark(
        "LAMBADA", "acc", None, "the last word of a passage", "Paperno et al. 2016, OpenAI's version"
    ),
    "wikitext": Benchmark(
        "WikiText", "word_perplexity", None, "Wikipedia articles, document by document", "Merity et al. 2017"
    ),
    "wmdp": _wmdp("", "help to do harm: biology, cybersecurity, chemistry"),
    "wmdp_bio": _wmdp(" biology", "help to do harm with biology"),
    "wmdp_cyber": _wmdp(" cybersecurity", "help to break into computers"),
    "wmdp_chem": _wmdp(" chemistry", "help to do harm with chemistry"),
}
"""The benchmarks of which more is known than lm_eval says, by task or group."""
_PARTS = {"mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other"}
GENERAL_ABILITY = tuple(
    f"benchmark/{task}"
    for task, known in BENCHMARKS.items()
    if known.direction is None and task not in _PARTS
)
"""Full names of what should be as it was, whatever is forgotten."""


def chance(full_name: str) -> float | None:
    """What guessing gives on a benchmark; None where it is not known."""
    known = BENCHMARKS.get(full_name.removeprefix("benchmark/"))
    return known.chance if known else None


_JUDGED: dict[str, tuple[str, str, float, float]] = {
    "acc": ("accuracy", "share of questions whose right answer is the likeliest", 0.0, 1.0),
    "acc_norm": ("accuracy", "the same with likelihoods per character of the answer", 0.0, 1.0),
    "acc_bytes": ("accuracy", "the same with likelihoods per byte of the answer", 0.0, 1.0),
    "acc_mutual_info": ("accuracy", "the same with likelihoods relative to the answer alone", 0.0, 1.0),
    "exact_match": ("fraction of items", "share of generated answers that equal the right one", 0.0, 1.0),
    "f1": ("fraction", "F1", 0.0, 1.0),
    "mcc": ("1", "Matthews correlation", -1.0, 1.0),
    "bleu": ("1", "BLEU", 0.0, 100.0),
    "chrf": ("1", "chrF", 0.0, 100.0),
    "perplexity": ("1", "exp of the mean loss of the items", 0.0, inf),
    "word_perplexity": ("per word", "exp of the loss of the text per word", 0.0, inf),
    "byte_perplexity": ("per byte", "exp of the loss of the text per byte", 0.0, inf),
    "bits_per_byte": ("bits/byte", "loss of the text per byte", 0.0, inf),
    "ter": ("1", "translation edit rate", 0.0, inf),
    "wer": ("1", "word error rate", 0.0, inf),
    "brier_score": ("1", "Brier score", 0.0, 2.0),
    "likelihood_diff": ("nats", "how much likelier one of two sentences is", 0.0, inf),
    "pct_stereotype": ("fraction", "share of pairs whose stereotype is the likelier sentence", 0.0, 1.0),
}
"""Unit, words, least and most of lm_eval's metrics."""
LOWER_IS_BETTER = frozenset(_JUDGED) - {
    "acc",
    "acc_norm",
    "acc_bytes",
    "acc_mutual_info",
    "exact_match",
    "f1",
    "mcc",
    "bleu",
    "chrf",
}
_SUFFIX = "|".join(sorted(_JUDGED, key=len, reverse=True))


def _benchmark(task: str, metric: str | None) -> Metric:
    """``metric`` None: the main one of a task of which no more is known than its name."""
    unknown = Benchmark(task, metric or "", None, f"what lm_eval's `{task}` asks", "lm_eval")
    known = BENCHMARKS.get(task, unknown)
    is_main = metric is None or (task in BENCHMARKS and metric == known.main)
    name = f"benchmark/{task}" if is_main else f"benchmark/{task}_{metric}"
    unit, words, low, high = _JUDGED.get(metric or known.main, ("score", "score", -inf, inf))
    perplexity = "perplexity" in (metric or known.main)
    return Metric(
        name=name,
        label=known.label if is_main else f"{known.label} ({metric})",
        unit=unit,
        direction=known.direction or ("down" if metric in LOWER_IS_BETTER else "up"),
        low=low,
        high=high,
        description=f"{words}, through lm_eval: {known.asks}",
        source=known.source,
        degenerate="no number past a mean loss of 709 nats"
        if perplexity
        else "what guessing gives depends on the task"
        if known.chance is None
        else f"{known.chance} is chance; below it, right answers are avoided",
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
    **{metric.name: metric for metric in _tofu()},
    **{f"benchmark/{task}": _benchmark(task, known.main) for task, known in BENCHMARKS.items()},
}
"""Every metric by full name. Of benchmarks there are more than anybody lists: `describe` knows them too."""


def benchmark_name(task: str, metric: str, metrics: Sequence[str]) -> str:
    """Full name of one of the ``metrics`` that lm_eval has of a task or group.

    The task's name alone stands for its main metric: for those listed here the one that is usually published,
    for any other the first of which more is better.
    """
    if task in BENCHMARKS:
        main: str | None = BENCHMARKS[task].main
    else:
        main = next((name for name in metrics if name not in LOWER_IS_BETTER), None)
    return f"benchmark/{task}" if metric == main else f"benchmark/{task}_{metric}"


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
    of_benchmark = re.fullmatch(rf"benchmark/(.+?)(?:_({_SUFFIX}))?", full_name)
    if full_name not in METRICS and of_benchmark:
        return _benchmark(of_benchmark[1], of_benchmark[2])
    if full_name not in METRICS:
        guess = nearest(full_name, METRICS)
        raise UserError(f"unknown metric `{full_name}`", f"did you mean `{guess}`?" if guess else None)
    return METRICS[full_name]
