"""Comparison of results: which models stand side by side, how far each is from gold, which are separable.

The gold model (trained without the forget data) is the reference of every metric whose direction is `gold`: a
higher forget loss than gold's is over-forgetting, never a better result. Two models are separable if the
interval of their difference excludes 0. The difference is taken on the same items, over seeds if there are
several, and from the two intervals if neither is possible.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Literal

from mari_cli.errors import UserError, counted, one_line
from mari_cli.metrics.aggregation import ByIntervals
from mari_cli.metrics.corpora import DISTANCE, FORGET_SIDE, GROUPS, KEPT_SIDE, suite_of
from mari_cli.metrics.difference import (
    By,
    Difference,
    difference_of_estimates,
    difference_over_seeds,
    paired_difference,
)
from mari_cli.metrics.distance import difference_of_distances
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import Identity, take_apart, what_differs
from mari_cli.metrics.metric import Metric
from mari_cli.metrics.statistics import How, over_seeds
from mari_cli.report.format import listed
from mari_cli.report.read import ModelResult, RunData
from mari_cli.suites.registry import METRICS, describe, judged_metrics

ModelRole = Literal["target", "gold", "unlearned", "model"]


class Standing(StrEnum):
    """The position of a value between the target's value (before) and gold's."""

    at = "as gold"  # not separable from gold
    short = "short of gold"  # between before and gold
    past = "past gold"  # on the other side of gold: over-forgetting
    away = "away from gold"  # on the side of before, but further from gold than before
    off = "off gold"  # differs from gold, and before was as gold or is unknown


class Change(StrEnum):
    """A value compared with the value before, for data that should be kept."""

    kept = "as before"
    better = "better"
    worse = "worse"


# -- who is compared -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model of a run, or of several runs that differ in their seed alone."""

    role: ModelRole
    runs: tuple[RunData, ...]

    @property
    def model(self) -> ModelResult:
        """The model's metrics; the mean over seeds if there are several runs."""
        models = [run.models[self.role] for run in self.runs]
        if len(models) == 1:
            return models[0]
        by_seed = {run.seed or 0: model.metrics for run, model in zip(self.runs, models, strict=True)}
        return ModelResult(metrics=metrics_over_seeds(by_seed, confidence=confidence_of(self.runs)))

    def by_seed(self, metric: str) -> dict[int, float]:
        """The value of each seed that has the metric."""
        found = {run.seed or 0: run.models[self.role].metrics.get(metric) for run in self.runs}
        return {seed: estimate.value for seed, estimate in found.items() if estimate is not None}


def metrics_over_seeds(
    by_seed: Mapping[int, Mapping[str, Estimate]], *, confidence: float
) -> dict[str, Estimate]:
    """The metrics that every seed has, as means over seeds."""
    first, *others = by_seed.values()
    return {
        name: over_seeds(
            {seed: metrics[name] for seed, metrics in by_seed.items()},
            confidence=confidence,
            low=metric_of(name).low,
            high=metric_of(name).high,
        )
        for name in first
        if all(name in metrics for metrics in others)
    }


def confidence_of(runs: Iterable[RunData]) -> float:
    """The highest confidence level of the runs' intervals by their configs, in any order; else 0.95."""
    return max((float(level) for run in runs if (level := run.setting("metrics.confidence"))), default=0.95)


def side_of(role: ModelRole, runs: tuple[RunData, ...]) -> Side:
    """The model with ``role``; a model that all runs share, as a shared gold model, counts once."""
    one = role in ("target", "gold") and len({_identity(run, role) for run in runs}) == 1
    return Side(role=role, runs=runs[:1] if one else runs)


def difference(metric: str, a: Side, b: Side) -> Difference | None:
    """``a`` minus ``b``; None if no interval exists. Seeds without spread are compared by items instead."""
    if metric_of(metric).is_test:  # p-values do not subtract; their test statistic does
        return None
    if len(a.runs) > 1 or len(b.runs) > 1:
        over = difference_over_seeds(
            _repeat(a, b, metric), _repeat(b, a, metric), confidence=confidence_of((*a.runs, *b.runs))
        )
        if over is None or over.separable is not None:
            return over
    ours, theirs = a.runs[0], b.runs[0]
    asked = (a.role, theirs.path, b.role, metric)
    if asked not in ours.differences:
        ours.differences[asked] = _compare_models(metric, a, b)
    return ours.differences[asked]


def _repeat(side: Side, other: Side, metric: str) -> dict[int, float]:
    """Values by seed; the value of a shared target or gold model is repeated for each seed of ``other``."""
    values = side.by_seed(metric)
    if len(side.runs) == 1 and len(other.runs) > 1 and side.role in ("target", "gold"):
        return {seed: value for value in values.values() for seed in other.by_seed(metric)}
    return values


def _compare_models(metric: str, a: Side, b: Side) -> Difference | None:
    ours, theirs = a.runs[0], b.runs[0]
    here, there = ours.models[a.role].metrics.get(metric), theirs.models[b.role].metrics.get(metric)
    if here is None or there is None:
        return None
    if metric in (DISTANCE, FORGET_SIDE, KEPT_SIDE):
        return _compare_distances(metric, a, b) or difference_of_estimates(here, there)
    entry = metric_of(metric)
    of_a = take_apart(entry, ours.items_of(a.role), ours.items_of("gold"))
    of_b = take_apart(entry, theirs.items_of(b.role), theirs.items_of("gold"))
    if of_a is None or of_b is None or what_differs(of_a, of_b):
        return difference_of_estimates(here, there)
    for whole, estimate in ((of_a, here), (of_b, there)):
        if not math.isclose(whole.value, estimate.value, rel_tol=1e-6, abs_tol=1e-9):
            return difference_of_estimates(here, there)  # computed in another way than from these items
    return paired_difference(of_a, of_b, _how(ours, theirs))


def _how(ours: RunData, theirs: RunData) -> How:
    return How(int(ours.setting("metrics.bootstrap") or 1000), confidence_of((ours, theirs)))


def _compare_distances(metric: str, a: Side, b: Side) -> Difference | None:
    """The difference of two distances with the same metrics, from the items of all models of both runs."""
    ours, theirs = a.runs[0], b.runs[0]
    if ours.entered is None or theirs.entered is None or ours.entered.metrics != theirs.entered.metrics:
        return None
    asked = (a.role, theirs.path, b.role)
    if asked not in ours.distances:
        ours.distances[asked] = difference_of_distances(
            (a.role, {role: ours.items_of(role) for role in ours.models}),
            (b.role, {role: theirs.items_of(role) for role in theirs.models}),
            ours.entered,
            _how(ours, theirs),
            METRICS,
        )
    return ours.distances[asked].get(metric)


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One model in a comparison, or one method over its seeds, with ``target`` and ``gold`` for reference.
    ``run`` is the first of ``runs``, which differ in their seed alone."""

    label: str
    role: ModelRole
    runs: tuple[RunData, ...]
    model: ModelResult
    target: ModelResult | None = None
    gold: ModelResult | None = None

    @property
    def run(self) -> RunData:
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of several runs; empty for one run."""
        return [run.seed or 0 for run in self.runs] if len(self.runs) > 1 else []

    @property
    def side(self) -> Side:
        return side_of(self.role, self.runs)

    def estimate(self, metric: str, of: Literal["model", "target", "gold"] = "model") -> Estimate | None:
        """Of the row's own model, or of target or gold beside it."""
        model: ModelResult | None = getattr(self, of)
        return model.metrics.get(metric) if model else None

    def distance(self, metric: str) -> float | None:
        """The value minus gold's value."""
        here, gold = self.estimate(metric), self.estimate(metric, of="gold")
        return None if here is None or gold is None or self.role == "gold" else here.value - gold.value

    def standing(self, metric: str) -> Standing | None:
        if self.gold is None or self.role == "gold" or self.estimate(metric) is None:
            return None
        if metric_of(metric).is_test:
            if len(self.runs) > 1:  # a mean of p-values is no p-value
                return None
            at = self.model.metrics[metric].value >= 1 - confidence_of(self.runs)
            return Standing.at if at else Standing.off
        gold = side_of("gold", self.runs)
        return standing(difference(metric, self.side, gold), self.before_from_gold(metric))

    def before_from_gold(self, metric: str) -> Difference | None:
        if self.target is None or self.gold is None:
            return None
        return difference(metric, side_of("target", self.runs), side_of("gold", self.runs))

    def change(self, metric: str) -> Change | None:
        if self.target is None or self.role != "unlearned" or self.estimate(metric) is None:
            return None
        before = side_of("target", self.runs)
        return change(difference(metric, self.side, before), direction=metric_of(metric).direction)


def metric_of(name: str) -> Metric:
    """The registered metric, or a bare entry for a metric of a later version."""
    try:
        return describe(name)
    except UserError:
        return Metric(
            name=name,
            label=name.replace("/", " ").replace("_", " "),
            unit="",
            direction="gold",
            low=-math.inf,
            high=math.inf,
            description="not known to this version",
            source="",
            degenerate="",
            aggregate=ByIntervals("nothing says how it is made of items"),
        )


def standing(from_gold: Difference | None, before_from_gold: Difference | None) -> Standing | None:
    """The standing from the differences to gold, now and before; None if there is no interval now."""
    if from_gold is None or from_gold.separable is None:
        return None
    if not from_gold.separable:
        return Standing.at
    if before_from_gold is None or not before_from_gold.separable:
        return Standing.off
    if from_gold.value * before_from_gold.value < 0:
        return Standing.past
    return Standing.short if abs(from_gold.value) <= abs(before_from_gold.value) else Standing.away


def change(from_before: Difference | None, *, direction: str) -> Change | None:
    if from_before is None or from_before.separable is None or direction == "gold":
        return None
    if not from_before.separable:
        return Change.kept
    return Change.better if (from_before.value > 0) == (direction == "up") else Change.worse


# -- rows ------------------------------------------------------------------------------------------


def by_seed(runs: Iterable[RunData]) -> list[tuple[RunData, ...]]:
    """The runs in groups that differ in their seed alone, each in the order of seeds. The seed of a corpus,
    as `forget.seed`, may be the run's seed in every run of a group."""
    groups: list[tuple[set[str], list[RunData]]] = []
    for run in runs:
        alike = {_describe_without_seed(run, following=following) for following in (False, True)}
        for known, group in groups:
            if known & alike and run.seed is not None and run.seed not in [other.seed for other in group]:
                known &= alike
                group.append(run)
                break
        else:
            groups.append((alike, [run]))
    return [tuple(sorted(group, key=lambda run: run.seed or 0)) for _, group in groups]


_PLACES = frozenset({"seed", "out", "cache", "tracker"})
"""Top-level keys that may differ between runs of one method: the seed, and keys that change no number."""


def _describe_without_seed(run: RunData, *, following: bool) -> str:
    """The configuration as text. With ``following``, a corpus seed that equals the run's seed is left out."""
    config = {key: value for key, value in run.config.items() if key not in _PLACES}
    for key in ("forget", "retain", "holdout") if following else ():
        section = config.get(key)
        if isinstance(section, dict) and "seed" in section and section["seed"] == run.seed:
            config[key] = {**section, "seed": "of the run"}
    return json.dumps([run.task, run.name, run.loss, config], sort_keys=True, default=str)


def group_labels(groups: list[tuple[RunData, ...]]) -> list[str]:
    """The names of the groups' runs, with the directory added where names are equal."""
    labels = []
    for group, where in zip(groups, _places_of_namesakes([group[0] for group in groups]), strict=True):
        seeds = f"{len(group)} seeds" if len(group) > 1 else ""
        told = ", ".join(filter(None, [re.sub(r"_?seed=-?\d+", "", where) if seeds else where, seeds]))
        labels.append(f"{group[0].name} ({told})" if told else group[0].name)
    return labels


def _places_of_namesakes(runs: list[RunData]) -> list[str]:
    """For each run as much of the end of its path as no other run of the same name has; empty for a run whose
    name no other run has."""
    paths = [run.path.resolve().parts for run in runs]
    told = []
    for run, path in zip(runs, paths, strict=True):
        others = [p for one, p in zip(runs, paths, strict=True) if one.name == run.name and one is not run]
        depth = next((d for d in range(1, len(path)) if path[-d:] not in [other[-d:] for other in others]), 1)
        told.append(one_line("/".join(path[-depth:])) if others else "")
    return told


def comparison_rows(runs: list[RunData]) -> list[ComparisonRow]:
    """Rows of targets, then gold models, then results; runs that differ in their seed alone are one row.

    A target or gold that several runs share (same weights, measured on the same data) has one row.
    """
    groups = by_seed(runs)
    labels = group_labels(groups)
    rows: list[ComparisonRow] = []
    roles: tuple[tuple[ModelRole, str], ...] = (("target", "before"), ("gold", "gold"))
    for role, word in roles:
        first: dict[object, tuple[str, tuple[RunData, ...]]] = {}
        for label, group in zip(labels, groups, strict=True):
            if all(role in run.models for run in group):
                identities = tuple(dict.fromkeys(_identity(run, role) for run in group))
                first.setdefault(identities, (label, side_of(role, group).runs))
        for label, group in first.values():
            rows.append(_row(word if len(first) == 1 else f"{word} ({label})", role, group))
    made_here: tuple[ModelRole, ...] = ("unlearned", "model")
    for label, group in zip(labels, groups, strict=True):
        rows.extend(_row(label, role, group) for role in made_here if role in group[0].models)
    return rows


def _identity(run: RunData, role: ModelRole) -> object:
    digest = run.models[role].hash
    return (digest, data_hashes(run)) if digest else run.path


def _row(label: str, role: ModelRole, group: tuple[RunData, ...]) -> ComparisonRow:
    def there(role: ModelRole) -> ModelResult | None:
        return side_of(role, group).model if all(role in run.models for run in group) else None

    model = there(role)
    assert model
    return ComparisonRow(
        label=label, role=role, runs=group, model=model, target=there("target"), gold=there("gold")
    )


def results(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """The rows of the models that runs made or measured, without target and gold."""
    return [row for row in rows if row.role in ("unlearned", "model")]


def reading_order(rows: Iterable[ComparisonRow]) -> list[ComparisonRow]:
    """Before, after, gold: the order in which one run is read."""
    order = {"target": 0, "model": 1, "unlearned": 1, "gold": 2}
    return sorted(rows, key=lambda row: order[row.role])


def metric_names(rows: Iterable[ComparisonRow]) -> list[str]:
    """Every metric that any row has, in the registry's order, unknown ones last."""
    there = {name for row in rows for name in row.model.metrics}
    return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())


def data_hashes(run: RunData) -> tuple[tuple[str, str], ...]:
    """The hash of each corpus of a run; empty for logs, whose hash is a model's."""
    if run.setting("from_log"):
        return ()
    return tuple(
        (corpus, str(next((value for key, value in fields.items() if "sha" in key or "hash" in key), None)))
        for corpus, fields in sorted(run.data.items())
    )


def differing_corpora(runs: list[RunData]) -> list[str]:
    """Corpora that differ between the methods on one seed, so that their numbers must not be compared."""
    found: dict[str, None] = {}
    for ours, theirs in combinations(by_seed(runs), 2):
        others = {run.seed: run for run in theirs}
        pairs = [(run, others[run.seed]) for run in ours if run.seed in others] or [(ours[0], theirs[0])]
        for a, b in pairs:
            hashes = dict(data_hashes(a))
            for corpus, digest in data_hashes(b):
                if hashes.get(corpus, digest) != digest:
                    found[corpus] = None
    return list(found)


def unshared(rows: list[ComparisonRow]) -> list[str]:
    """Corpora and suites that only some of the results have, each as text with the models that have it."""
    shown = results(rows)
    asked: dict[str, list[str]] = {}
    for row in shown:
        for what in dict.fromkeys(suite_of(name) or name.split("/")[0] for name in row.model.metrics):
            if what in GROUPS and what not in ("forget", "retain"):  # not worth a warning
                continue
            told = f"the {what} corpus" if what in GROUPS else what.upper()
            asked.setdefault(told, []).append(row.label)
    return [
        f"{what} of {listed(who)} alone" if len(who) <= 3 else f"{what} of {len(who)} of {len(shown)}"
        for what, who in asked.items()
        if len(who) < len(shown)
    ]


def differing_items(rows: list[ComparisonRow]) -> list[str]:
    """Sets in which the runs were asked different items, as text; each set once."""
    single = [row for row in results(rows) if not row.seeds]
    found: dict[str, str] = {}
    for row in single[1:]:
        asked, others = _items_by_set(single[0]), _items_by_set(row)
        for name in asked.keys() & others.keys():
            common = len(asked[name] & others[name])
            if not len(asked[name]) == len(others[name]) == common:
                told = f"{len(asked[name])} and {counted(len(others[name]), 'item')}, {common} in common"
                found.setdefault(name, f"{name}: {told}")
    return [found[name] for name in sorted(found)]


def _items_by_set(row: ComparisonRow) -> dict[str, set[Identity]]:
    found: dict[str, set[Identity]] = {}
    for item in row.run.items_of(row.role):
        found.setdefault("/".join(filter(None, [item.suite, item.set])), set()).add(item.identity)
    return found


_JUDGED: dict[By, str] = {
    "items": "on the same items",
    "seeds": "over seeds",
    "intervals": "by their two intervals alone",
}


def not_separable(rows: list[ComparisonRow], *, confidence: str) -> str | None:
    """For each kind of test a sentence with the metrics that do not separate the runs; None: all do."""
    shown = results(rows)
    found: dict[By, list[str]] = {}
    of_suites = [name for name in metric_names(shown) if suite_of(name)]
    for metric in [*judged_metrics("forgotten"), *judged_metrics("kept"), *of_suites]:
        there = [row for row in shown if row.estimate(metric) is not None]
        apart = {(a.label, b.label): difference(metric, a.side, b.side) for a, b in combinations(there, 2)}
        same = {pair: d for pair, d in apart.items() if d is not None and d.separable is False}
        for by in dict.fromkeys(d.by for d in same.values()):
            pairs = [pair for pair, d in same.items() if d.by == by]
            if len(pairs) == len(apart) > 1:
                which = "all of them"
            elif len(pairs) <= 3:
                which = "; ".join(f"{a} and {b}" for a, b in pairs)
            else:
                which = f"{len(pairs)} of {len(apart)} pairs"
            found.setdefault(by, []).append(
                metric_of(metric).label + (f" ({which})" if len(shown) > 2 else "")
            )
    if not found:
        return None
    who = f"{shown[0].label} and {shown[1].label} on " if len(shown) == 2 else ""
    return " ".join(
        f"Not separable {_JUDGED[by]} ({confidence} intervals of the difference hold 0): "
        f"{who}{listed(words)}."
        for by, words in found.items()
    )
