"""How a metric is made of the values of items, so that it can be made again of other draws of them.

Not every metric is: marginal information is of tokens, a benchmark keeps its own counts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Identity = tuple[int, str | None]


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
        return self.item, self.key


Combine = Callable[[tuple[Floats, ...], tuple[Indices, ...]], Any]
"""Of each set the values [items, columns] and the draws [..., items], to the metric of each draw [...]."""


@dataclass(frozen=True)
class Recipe:
    """A metric as a function of the items of some sets."""

    suite: str | None
    sets: tuple[str, ...]
    columns: Callable[[ItemValues], tuple[float, ...]]
    """Raises KeyError for an item that was not asked for it."""
    combine: Combine
    fact: str | None = None


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


def recipe(metric: str) -> Recipe:
    """How the metric of that full name would be made, were there items with such values."""
    path, _, name = metric.rpartition("/")
    suites, _, group = path.rpartition("/")
    suite = suites or None
    if group == "privacy" and name.endswith("_auc"):
        score = name.removesuffix("_auc")
        return Recipe(suite, ("forget", "holdout"), lambda item: (_attack(item, score),), auc)
    if group == "facts" and name.endswith("_recall"):
        fact = name.removesuffix("_recall")
        return Recipe(suite, ("forget",), lambda item: (item.values["recalled"],), mean, fact)
    if name == "token_accuracy":
        return Recipe(suite, (group,), lambda item: (_tokens_right(item), item.values["tokens"]), ratio)
    if name == "perplexity":
        return Recipe(suite, (group,), lambda item: (_loss_sum(item), item.values["tokens"]), exp_ratio)
    if name in ("truth_ratio", "truth_ratio_arithmetic"):
        return Recipe(suite, (group,), lambda item: (_truth(item.values[name], group),), mean)
    return Recipe(suite, (group,), lambda item: (item.values[name],), mean)


def _attack(item: ItemValues, score: str) -> float:
    """Scores are higher where an item looks more trained on."""
    return -item.values["answer_nll"] if score == "loss" else item.values[score]


def _tokens_right(item: ItemValues) -> float:
    return item.values["exact_memorization"] * item.values["tokens"]


def _loss_sum(item: ItemValues) -> float:
    return item.values["answer_nll"] * item.values["tokens"]


def _truth(truth_ratio: float, group: str) -> float:
    """Of a set to forget: how close to 1; of one to keep: how far below it."""
    if group == "forget":
        return min(truth_ratio, 1 / truth_ratio) if truth_ratio else 0.0
    return max(0.0, 1 - truth_ratio)


def made(metric: str, items: Iterable[ItemValues]) -> Made | None:
    """The metric of one model from its items; None where they do not tell it."""
    how = recipe(metric)
    found: dict[str, list[tuple[Identity, tuple[float, ...]]]] = {name: [] for name in how.sets}
    for item in items:
        if item.suite == how.suite and item.set in found and how.fact in (None, item.fact):
            try:
                found[item.set].append((item.identity, how.columns(item)))
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


def _by_item(entry: tuple[Identity, tuple[float, ...]]) -> tuple[int, str]:
    (number, key), _ = entry
    return number, key or ""


def what_differs(a: Made, b: Made) -> str | None:
    """In words, where two models were not measured on the same items; None where they were."""
    for ours, theirs in zip(a.items, b.items, strict=True):
        if ours != theirs:
            common = len(set(ours) & set(theirs))
            return f"{len(ours)} items of the one and {len(theirs)} of the other, {common} in common"
    return None
