"""Metrics of lm_eval's tasks and groups: entries of the known ones, and a general entry for all others."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from mari_cli.metrics.aggregation import Aggregation, ByIntervals, Column, exp_ratio, mean_of
from mari_cli.metrics.metric import Direction, Metric, View


@dataclass(frozen=True)
class Known:
    """What this project knows of a task or group of lm_eval. Its bare name stands for its metric ``main``."""

    label: str
    main: str
    chance: float | None
    asks: str
    source: str
    direction: Direction | None = None
    """None: the direction of the metric."""


def _mmlu(part: str, subjects: str) -> Known:
    return Known(f"MMLU{part}", "acc", 0.25, f"four-choice questions of {subjects}", "Hendrycks et al. 2021")


def _wmdp(part: str, subject: str) -> Known:
    asks = f"four-choice questions whose answers {subject}"
    return Known(f"WMDP{part}", "acc", 0.25, asks, "Li et al. 2024", "down")


MMLU_SAMPLE = "mmlu_sample"
BENCHMARKS: dict[str, Known] = {
    "mmlu": _mmlu("", "57 subjects"),
    "mmlu_stem": _mmlu(" STEM", "its sciences and mathematics"),
    "mmlu_humanities": _mmlu(" humanities", "its humanities"),
    "mmlu_social_sciences": _mmlu(" social sciences", "its social sciences"),
    "mmlu_other": _mmlu(" other", "its other subjects"),
    MMLU_SAMPLE: _mmlu(" (sample)", "57 subjects: the 281 development questions that lm_eval carries"),
    "arc_easy": Known("ARC-Easy", "acc", 0.25, "school science of mostly four choices", "Clark et al. 2018"),
    "arc_challenge": Known("ARC-Challenge", "acc_norm", 0.25, "harder school science", "Clark et al. 2018"),
    "piqa": Known("PIQA", "acc", 0.5, "which of two ways reaches an everyday goal", "Bisk et al. 2020"),
    "hellaswag": Known(
        "HellaSwag", "acc_norm", 0.25, "which of four endings a short text has", "Zellers et al. 2019"
    ),
    "winogrande": Known(
        "WinoGrande", "acc", 0.5, "which of two nouns a sentence means", "Sakaguchi et al. 2020"
    ),
    "openbookqa": Known(
        "OpenBookQA", "acc_norm", 0.25, "four-choice questions of elementary science", "Mihaylov et al. 2018"
    ),
    "sciq": Known("SciQ", "acc", 0.25, "four-choice questions of science", "Welbl et al. 2017"),
    "boolq": Known("BoolQ", "acc", 0.5, "yes or no, after a passage", "Clark et al. 2019"),
    "lambada_openai": Known(
        "LAMBADA", "acc", None, "the last word of a passage", "Paperno et al. 2016, OpenAI's version"
    ),
    "wikitext": Known(
        "WikiText", "word_perplexity", None, "Wikipedia articles, document by document", "Merity et al. 2017"
    ),
    "wmdp": _wmdp("", "help to do harm: biology, cybersecurity, chemistry"),
    "wmdp_bio": _wmdp(" biology", "help to do harm with biology"),
    "wmdp_cyber": _wmdp(" cybersecurity", "help to break into computers"),
    "wmdp_chem": _wmdp(" chemistry", "help to do harm with chemistry"),
}
"""Benchmarks of which more is known than lm_eval tells, by task or group."""
_PARTS = {"mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other"}
_IN_A_LIST_OF_RUNS = {"mmlu", MMLU_SAMPLE}


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
"""Unit, words, minimum and maximum of lm_eval's metrics."""
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


def range_of(metric: str) -> tuple[float, float]:
    """Minimum and maximum of lm_eval's ``metric``; infinite if unknown."""
    *_, low, high = _JUDGED.get(metric, ("", "", -inf, inf))
    return low, high


SUFFIX = "|".join(sorted(_JUDGED, key=len, reverse=True))


def of_benchmark(task: str, metric: str | None) -> Metric:
    """The entry of ``metric``; None: the main metric of a task of which only the name is known."""
    unknown = Known(task, metric or "", None, f"what lm_eval's `{task}` asks", "lm_eval")
    known = BENCHMARKS.get(task, unknown)
    is_main = metric is None or (task in BENCHMARKS and metric == known.main)
    name = f"benchmark/{task}" if is_main else f"benchmark/{task}_{metric}"
    unit, words, low, high = _JUDGED.get(metric or known.main, ("score", "score", -inf, inf))
    perplexity = "perplexity" in (metric or known.main)
    general = is_main and task in BENCHMARKS and known.direction is None and task not in _PARTS
    views: set[View] = {"overview", "glance"} if general else set()
    kind = "General ability" if high == 1 else f"Running text, {unit}"
    label = known.label if is_main else f"{known.label} ({metric})"
    guessing = "" if known.chance is None or not is_main else f"; {100 * known.chance:.0f} % is guessing"
    return Metric(
        name=name,
        label=label,
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
        aggregate=_aggregation(task, metric or known.main),
        role="kept" if general else None,
        headline=1000 if is_main else None,
        views=frozenset(views | ({"runs"} if task in _IN_A_LIST_OF_RUNS else set())),
        says=f"{kind} ({label}{guessing})",
        chance=known.chance if is_main else None,
    )


def _aggregation(task: str, metric: str) -> Aggregation | ByIntervals:
    """The aggregation of a task, or of a group whose tasks' names begin with the group's."""
    if task == "wikitext" and metric == "word_perplexity":
        return Aggregation(exp_ratio, (_LOSS, _WORDS)).on(task)
    if metric in ("", "acc", "acc_norm"):
        return mean_of(Column(metric or "acc")).on(f"{task}|{task}_*")
    return ByIntervals("lm_eval makes it of all answers together")


_LOSS = Column("loss", made_of=lambda item: -item.values["loglikelihood"])
_WORDS = Column("words")


def benchmark_name(task: str, metric: str, metrics: Sequence[str]) -> str:
    """The full name of one of the ``metrics`` that lm_eval computes for a task or group.

    The task's name alone stands for its main metric: for benchmarks of this file the usually published one,
    for others the first metric of which higher is better.
    """
    if task in BENCHMARKS:
        main: str | None = BENCHMARKS[task].main
    else:
        main = next((name for name in metrics if name not in LOWER_IS_BETTER), None)
    return f"benchmark/{task}" if metric == main else f"benchmark/{task}_{metric}"


METRICS = [of_benchmark(task, known.main) for task, known in BENCHMARKS.items()]


def describe_benchmark(full_name: str) -> Metric | None:
    """The entry of a task or group of lm_eval, known or not; None if ``full_name`` is no benchmark."""
    found = re.fullmatch(rf"benchmark/(.+?)(?:_({SUFFIX}))?", full_name)
    return of_benchmark(found[1], found[2]) if found else None
