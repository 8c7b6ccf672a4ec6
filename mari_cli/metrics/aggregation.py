"""The part of a metric's entry that computes the metric from values of items: from which sets, which values,
by which function. The same function takes other draws of the items, so the metric can be resampled.

Shapes: values [items, columns] and draws [..., items] of each set, to the metric of each draw [...].
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a table of metrics needs no numpy
    from mari_cli.metrics.answer import AnswerTokens
    from mari_cli.metrics.arrays import Floats, Indices
    from mari_cli.metrics.items import ItemValues

Combine = Callable[["tuple[Floats, ...]", "tuple[Indices, ...]"], Any]


@dataclass(frozen=True)
class Column:
    """One value that an item has under one model."""

    name: str
    """Its name in items.jsonl."""
    label: str = ""
    """Its heading in a report's table of items; the table leaves out a column without a label."""
    leads: bool = False
    """Whether that table shows the values of all models side by side."""
    score: "Callable[[AnswerTokens], float] | None" = None
    """Computes the value from the tokens of the item's answer; None: the value has another source."""
    made_of: "Callable[[ItemValues], float] | None" = None
    """Computes the value from other values of the item, or raises KeyError; None: the value is stored."""

    def of(self, item: "ItemValues") -> float:
        """The value of ``item``. Raises KeyError for an item without it."""
        return item.values[self.name] if self.made_of is None else self.made_of(item)


@dataclass(frozen=True)
class Aggregation:
    """A metric as a function of the items of some sets."""

    combine: Combine
    columns: tuple[Column, ...]
    sets: tuple[str, ...] = ()
    """Each is a sample of its own; `mmlu|mmlu_*` stands for every set that fits one of the patterns."""
    suite: str | None = None
    fact: str | None = None
    """Count only items about a fact of this kind."""
    beside_gold: bool = False
    """Whether the gold model's columns of the same items follow the model's own."""

    def on(self, *sets: str, suite: str | None = None) -> "Aggregation":
        return replace(self, sets=sets, suite=suite)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose code defines the metric."""
        functions = [self.combine, *(f for column in self.columns for f in (column.score, column.made_of))]
        return tuple(sorted({function.__module__ for function in functions if function}))


@dataclass(frozen=True)
class ByIntervals:
    """Values of items do not give the metric, so two models are compared by their two intervals."""

    reason: str
    """The reason why items do not give the metric."""
    modules: tuple[str, ...] = ()
    """Modules whose code defines the metric."""


def mean(values: "tuple[Floats, ...]", draws: "tuple[Indices, ...]") -> Any:
    return values[0][draws[0], 0].mean(axis=-1)


def ratio(values: "tuple[Floats, ...]", draws: "tuple[Indices, ...]") -> Any:
    """Sum of the first column over the sum of the second."""
    return values[0][draws[0], 0].sum(axis=-1) / values[0][draws[0], 1].sum(axis=-1)


def exp_ratio(values: "tuple[Floats, ...]", draws: "tuple[Indices, ...]") -> Any:
    import numpy as np

    with np.errstate(over="ignore"):
        return np.exp(ratio(values, draws))


def harmonic_mean(values: "tuple[Floats, ...]", draws: "tuple[Indices, ...]") -> Any:
    """The harmonic mean of the means of all columns of all sets; 0 where one mean is 0."""
    import numpy as np
    from scipy import stats

    means = [of_set[at].mean(axis=-2) for of_set, at in zip(values, draws, strict=True)]
    return stats.hmean(np.concatenate(means, axis=-1), axis=-1)


def auc(values: "tuple[Floats, ...]", draws: "tuple[Indices, ...]") -> Any:
    """Mean share of the second set's drawn items below each drawn item of the first, ties counted by half.
    The values are sorted once for all draws."""
    import numpy as np

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


def ks_distance(values: "tuple[Floats, ...]", draws: "tuple[Indices, ...]") -> Any:
    """The largest distance of the distribution functions of the first column and the second, gold's."""
    import numpy as np

    (own, gold), drawn = values[0].T, draws[0]
    at_M = np.unique(values[0])
    # the amount that item i adds to the difference at each place: -1, 0 or 1
    steps_NM = (own[:, None] <= at_M).astype(np.float32) - (gold[:, None] <= at_M).astype(np.float32)
    n = drawn.shape[-1]
    flat = drawn.reshape(-1, n)
    places = (np.arange(len(flat))[:, None] * len(own) + flat).ravel()
    counts = np.bincount(places, minlength=len(flat) * len(own)).reshape(len(flat), len(own))
    distances = np.abs(counts.astype(np.float32) @ steps_NM).max(axis=-1).astype(np.float64) / n
    return distances.reshape(drawn.shape[:-1])


def mean_of(column: Column) -> Aggregation:
    return Aggregation(mean, (column,))
