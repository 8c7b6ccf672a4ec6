"""How a metric is made of the values of items, so that it can be made again of other draws of them.

Not every metric is: marginal information, say, is of tokens.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import exp, expm1, inf, log, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mari_cli.errors import counted

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Identity = tuple[str, int, str | None]
"""Set, number and hash."""


@dataclass(frozen=True, kw_only=True)
class ItemValues:
    """One item under one model: values by metric name without the set (``answer_nll``), never its text."""

    model: str
    set: str
    item: int
    values: dict[str, float]
    suite: str | None = None
    key: str | None = None
    """Hash of its content."""
    fact: str | None = None

    @property
    def identity(self) -> Identity:
        return self.set, self.item, self.key


_IDENTITY = frozenset({"model", "suite", "set", "item", "key", "fact"})


def item_values(row: Mapping[str, Any]) -> ItemValues:
    """A row of items.jsonl. JSON has no NaN: null stands for whatever is not finite."""
    return ItemValues(
        model=row["model"],
        suite=row.get("suite"),
        set=row["set"],
        item=int(row["item"]),
        key=row.get("key"),
        fact=row.get("fact"),
        values={
            name: nan if value is None else float(value)
            for name, value in row.items()
            if name not in _IDENTITY
        },
    )


Combine = Callable[[tuple[Floats, ...], tuple[Indices, ...]], Any]
"""Of each set the values [items, columns] and the draws [..., items], to the metric of each draw [...]."""


@dataclass(frozen=True)
class Recipe:
    """A metric as a function of the items of some sets."""

    suite: str | None
    sets: tuple[str, ...]
    """Each a sample of its own; `mmlu|mmlu_*` stands for every set that fits one of the patterns."""
    columns: Callable[[ItemValues], tuple[float, ...]]
    """Raises KeyError for an item that was not asked for it."""
    combine: Combine
    fact: str | None = None
    beside_gold: bool = False
    """Whether the gold model's columns of the same items stand after the model's own."""


@dataclass(frozen=True)
class Made:
    """A metric of one model, taken apart: for each set the items in order, and their values [items, columns].

    ``yes_no``: a mean of values that are all 0 or 1.
    """

    items: tuple[tuple[Identity, ...], ...]
    values: tuple[Floats, ...]
    combine: Combine
    yes_no: bool

    @property
    def value(self) -> float:
        """As it was measured: every item once."""
        return float(self.of(tuple(np.arange(len(of_set)) for of_set in self.items)))

    def of(self, draws: tuple[Indices, ...]) -> Any:
        """The metric of other draws [..., items] of the items of each set."""
        return self.combine(self.values, draws)


def mean(values: tuple[Floats, ...], draws: tuple[Indices, ...]) -> Any:
    return values[0][draws[0], 0].mean(axis=-1)


def ratio(values: tuple[Floats, ...], draws: tuple[Indices, ...]) -> Any:
    return values[0][draws[0], 0].sum(axis=-1) / values[0][draws[0], 1].sum(axis=-1)


def exp_ratio(values: tuple[Floats, ...], draws: tuple[Indices, ...]) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(ratio(values, draws))


def harmonic_mean(values: tuple[Floats, ...], draws: tuple[Indices, ...]) -> Any:
    """Of the means of all columns of all sets; 0 where one of them is 0."""
    means = [of_set[at].mean(axis=-2) for of_set, at in zip(values, draws, strict=True)]
    return stats.hmean(np.concatenate(means, axis=-1), axis=-1)


def auc(values: tuple[Floats, ...], draws: tuple[Indices, ...]) -> Any:
    """Share of the drawn holdout items below each drawn forget item, ties by half; sorted once, not per
    draw."""
    (forget, holdout), (of_forget, of_holdout) = (values[0][:, 0], values[1][:, 0]), draws
    m = len(holdout)
    place = np.argsort(np.argsort(holdout))
    flat = of_holdout.reshape(-1, m)
    rows = np.arange(len(flat))[:, None] * m
    drawn = np.bincount((rows + place[flat]).ravel(), minlength=flat.size).reshape(flat.shape)
    upto = np.concatenate([np.zeros((len(flat), 1)), drawn.cumsum(axis=-1)], axis=-1)
    ordered = np.sort(holdout)
    ends = np.searchsorted(ordered, forget, "left"), np.searchsorted(ordered, forget, "right")
    below = (upto[:, ends[0]] + upto[:, ends[1]]) / (2 * m)
    shares = np.take_along_axis(below, of_forget.reshape(len(flat), -1), axis=-1).mean(axis=-1)
    return shares.reshape(of_holdout.shape[:-1])


def ks_distance(values: tuple[Floats, ...], draws: tuple[Indices, ...]) -> Any:
    """Largest distance between the distributions of the first column and of the second, gold's."""
    (own, gold), drawn = values[0].T, draws[0]
    at_M = np.unique(values[0])
    # what item i adds to the difference at each place: -1, 0 or 1
    steps_NM = (own[:, None] <= at_M).astype(np.float32) - (gold[:, None] <= at_M).astype(np.float32)
    n = drawn.shape[-1]
    flat = drawn.reshape(-1, n)
    places = (np.arange(len(flat))[:, None] * len(own) + flat).ravel()
    counts = np.bincount(places, minlength=len(flat) * len(own)).reshape(len(flat), len(own))
    distances = np.abs(counts.astype(np.float32) @ steps_NM).max(axis=-1).astype(np.float64) / n
    return distances.reshape(drawn.shape[:-1])


def recipe(metric: str) -> Recipe:
    """How the metric of that full name would be made, were there items with such values."""
    path, _, name = metric.rpartition("/")
    suites, _, group = path.rpartition("/")
    suite = suites or None
    if suite is None and group == "benchmark":
        return _of_benchmark(name)
    if suite is None and group not in _OF_CORPORA and (of_suite := _of_suite(group, name)):
        return of_suite
    if group == "privacy" and name.endswith("_auc"):
        score = name.removesuffix("_auc")
        return Recipe(suite, ("forget", "holdout"), lambda item: (_attack(item, score),), auc)
    if suite is None and group == "facts" and name.endswith("_recall"):
        fact = name.removesuffix("_recall")
        return Recipe(suite, ("forget",), lambda item: (item.values["recalled"],), mean, fact)
    if name == "token_accuracy":
        return Recipe(suite, (group,), lambda item: (_tokens_right(item), item.values["tokens"]), ratio)
    if name == "perplexity":
        return Recipe(suite, (group,), lambda item: (_loss_sum(item), item.values["tokens"]), exp_ratio)
    if name in ("truth_ratio", "truth_ratio_arithmetic", "truth_ratio_open_unlearning"):
        return Recipe(suite, (group,), lambda item: (_truth(item, name),), mean)
    if name == "forget_quality_ks":
        return Recipe(
            group, ("forget",), lambda item: (_log_truth(item, "truth_ratio"),), ks_distance, beside_gold=True
        )
    if name in ("model_utility", "model_utility_arithmetic", "model_utility_open_unlearning"):
        truth = name.replace("model_utility", "truth_ratio")
        return Recipe(group, _UTILITY, lambda item: _useful(item, truth), harmonic_mean)
    return Recipe(suite, (group,), lambda item: (item.values[name],), mean)


_OF_CORPORA = frozenset({"forget", "retain", "holdout", "privacy", "facts", "marginal", "benchmark"})
"""Groups of metrics without a suite."""


def _of_suite(suite: str, name: str) -> Recipe | None:
    """A metric that a suite calls after the set it is of, as `muse/verbatim_forget`."""
    if name.startswith(("model_utility", "forget_quality")):
        return None
    if name.endswith("_auc"):
        score = name.removesuffix("_auc")
        sets = ("forget|privacy_forget", "holdout|privacy_holdout")  # TOFU's and MUSE's
        return Recipe(suite, sets, lambda item: (_attack(item, score),), auc)
    if name.endswith("_nll"):
        return Recipe(suite, (name.removesuffix("_nll"),), lambda item: (item.values["answer_nll"],), mean)
    return Recipe(suite, (name,), lambda item: (_rouge(item),), mean)


_MAIN = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm", "openbookqa": "acc_norm"}
"""What a benchmark's name alone stands for, where it is not accuracy."""


def _of_benchmark(name: str) -> Recipe:
    """A task of lm_eval, or a group of tasks whose names begin with its own."""
    if name == "wikitext":
        columns = ("loglikelihood", "words")
        return Recipe(
            None, (name,), lambda item: (-item.values[columns[0]], item.values[columns[1]]), exp_ratio
        )
    asked = next((column for column in ("acc_norm", "acc") if name.endswith(f"_{column}")), None)
    task = name.removesuffix(f"_{asked}")
    column = asked or _MAIN.get(task, "acc")
    return Recipe(None, (f"{task}|{task}_*",), lambda item: (item.values[column],), mean)


def _rouge(item: ItemValues) -> float:
    """F1 on MUSE, recall on RWKU."""
    return item.values["rouge_l_f1"] if "rouge_l_f1" in item.values else item.values["rouge_l_recall"]


def _attack(item: ItemValues, score: str) -> float:
    """Scores are higher where an item looks more trained on."""
    return -item.values["answer_nll"] if score == "loss" else item.values[score]


def _tokens_right(item: ItemValues) -> float:
    return item.values["exact_memorization"] * item.values["tokens"]


def _loss_sum(item: ItemValues) -> float:
    return item.values["answer_nll"] * item.values["tokens"]


_UTILITY = ("retain", "authors", "facts")
"""The sets that model utility is of."""


def _useful(item: ItemValues, truth: str) -> tuple[float, float, float]:
    return item.values["probability"], item.values["rouge_l_recall"], _truth(item, truth)


def _truth(item: ItemValues, name: str) -> float:
    """Of a set to forget: how close the truth ratio is to 1; of one to keep: how far below it."""
    log_ratio = _log_truth(item, name)
    return exp(-abs(log_ratio)) if item.set == "forget" else max(0.0, -expm1(min(log_ratio, 0.0)))


def _log_truth(item: ItemValues, name: str) -> float:
    if f"log_{name}" in item.values:
        return item.values[f"log_{name}"]
    return log(item.values[name]) if item.values[name] > 0 else -inf


def made(metric: str, items: Iterable[ItemValues], gold: Iterable[ItemValues] = ()) -> Made | None:
    """The metric of one model from its items, and from gold's where it is one beside gold; None where they do
    not tell it."""
    how = recipe(metric)
    own = _made(how, items)
    if own is None or not how.beside_gold:
        return own
    golds = _made(how, gold)
    if golds is None or what_differs(own, golds):
        return None
    pairs = zip(own.values, golds.values, strict=True)
    return replace(own, values=tuple(np.concatenate(pair, axis=-1) for pair in pairs))


def _made(how: Recipe, items: Iterable[ItemValues]) -> Made | None:
    found: dict[str, list[tuple[Identity, tuple[float, ...]]]] = {name: [] for name in how.sets}
    samples: dict[str, str | None] = {}
    """By set, the sample it is part of."""
    for item in items:
        if item.set not in samples:
            samples[item.set] = next((name for name in how.sets if _fits(item.set, name)), None)
        sample = samples[item.set]
        if sample is not None and item.suite == how.suite and how.fact in (None, item.fact):
            try:
                found[sample].append((item.identity, how.columns(item)))
            except KeyError:
                continue
    if not all(found.values()):
        return None
    ordered = [sorted(of_set, key=_by_item) for of_set in found.values()]
    values = tuple(np.array([columns for _, columns in of_set], dtype=np.float64) for of_set in ordered)
    if not all(np.isfinite(of_set).all() for of_set in values):
        return None
    return Made(
        items=tuple(tuple(identity for identity, _ in of_set) for of_set in ordered),
        values=values,
        combine=how.combine,
        yes_no=how.combine is mean and bool(np.isin(values[0], (0.0, 1.0)).all()),
    )


def _fits(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split("|"))


def _by_item(entry: tuple[Identity, tuple[float, ...]]) -> tuple[str, int, str]:
    (name, number, key), _ = entry
    return name, number, key or ""


def what_differs(a: Made, b: Made) -> str | None:
    """In words, where two models were not measured on the same items; None where they were."""
    for ours, theirs in zip(a.items, b.items, strict=True):
        if ours != theirs:
            common = len(set(ours) & set(theirs))
            return (
                f"{counted(len(ours), 'item')} of the one and {len(theirs)} of the other, {common} in common"
            )
    return None
