"""The values of a run's items under its models, and a metric as a function of items: `Resamplable`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import nan
from typing import Any

import numpy as np

from mari_cli.errors import counted
from mari_cli.metrics.aggregation import Aggregation, Combine, mean
from mari_cli.metrics.arrays import Floats, Indices
from mari_cli.metrics.metric import Metric

Identity = tuple[str, int, str | None]
"""Set, number and content hash of an item."""


@dataclass(frozen=True, kw_only=True)
class ItemValues:
    """One item under one model: values by metric name without the set (``answer_nll``), without its text."""

    model: str
    set: str
    item: int
    values: dict[str, float]
    suite: str | None = None
    key: str | None = None
    """Hash of the item's content."""
    fact: str | None = None

    @property
    def identity(self) -> Identity:
        return self.set, self.item, self.key


_IDENTITY = frozenset({"model", "suite", "set", "item", "key", "fact"})


def item_values(row: Mapping[str, Any]) -> ItemValues:
    """The values of a row of items.jsonl. JSON has no NaN, so null stands for a value that is not finite."""
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


@dataclass(frozen=True)
class Resamplable:
    """A metric of one model as a function of items: each set's ordered items and values [items, columns].

    ``yes_no``: the metric is a mean of values that are all 0 or 1.
    """

    items: tuple[tuple[Identity, ...], ...]
    values: tuple[Floats, ...]
    combine: Combine
    yes_no: bool

    @property
    def value(self) -> float:
        """The measured value: every item once."""
        return float(self.of(tuple(np.arange(len(of_set)) for of_set in self.items)))

    def of(self, draws: tuple[Indices, ...]) -> Any:
        """The metric of other draws [..., items] of each set's items."""
        return self.combine(self.values, draws)


def take_apart(
    metric: Metric, items: Iterable[ItemValues], gold: Iterable[ItemValues] = ()
) -> Resamplable | None:
    """The metric of one model as a function of its items, and of gold's if it compares with gold. None where
    these items do not give the metric."""
    how = metric.aggregate
    if not isinstance(how, Aggregation):
        return None
    own = _take_apart(how, items)
    if own is None or not how.beside_gold:
        return own
    golds = _take_apart(how, gold)
    if golds is None or what_differs(own, golds):
        return None
    pairs = zip(own.values, golds.values, strict=True)
    return replace(own, values=tuple(np.concatenate(pair, axis=-1) for pair in pairs))


def _take_apart(how: Aggregation, items: Iterable[ItemValues]) -> Resamplable | None:
    found: dict[str, list[tuple[Identity, tuple[float, ...]]]] = {name: [] for name in how.sets}
    samples: dict[str, str | None] = {}
    """The sample that each set belongs to."""
    for item in items:
        if item.set not in samples:
            samples[item.set] = next((name for name in how.sets if _fits(item.set, name)), None)
        sample = samples[item.set]
        if sample is not None and item.suite == how.suite and how.fact in (None, item.fact):
            try:
                found[sample].append((item.identity, tuple(column.of(item) for column in how.columns)))
            except KeyError:
                continue
    if not all(found.values()):
        return None
    ordered = [sorted(of_set, key=_by_item) for of_set in found.values()]
    values = tuple(np.array([columns for _, columns in of_set], dtype=np.float64) for of_set in ordered)
    if not all(np.isfinite(of_set).all() for of_set in values):
        return None
    return Resamplable(
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


def what_differs(a: Resamplable, b: Resamplable) -> str | None:
    """A text on how the items of two models differ; None where both have the same items."""
    for ours, theirs in zip(a.items, b.items, strict=True):
        if ours != theirs:
            common = len(set(ours) & set(theirs))
            return (
                f"{counted(len(ours), 'item')} of the one and {len(theirs)} of the other, {common} in common"
            )
    return None
