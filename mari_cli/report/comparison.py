"""How results are read: which models stand side by side, how far each is from gold, what can be told apart.

The gold model (trained without the forget data) is the yardstick of every metric whose direction is `gold`:
a higher forget loss than gold's is over-forgetting, never a better result. Two values whose intervals overlap
are not told apart.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Literal

from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.registry import GENERAL_ABILITY, METRICS, Metric, describe
from mari_cli.report.numbers import listed
from mari_cli.report.read import ModelResult, RunData

Role = Literal["target", "gold", "unlearned", "model"]

FORGOTTEN = (
    "forget/answer_nll",
    "forget/token_accuracy",
    "forget/exact_match",
    "facts/unique_recall",
    "privacy/loss_auc",
)
"""What decides whether the forget data is forgotten: each is best at gold's value."""
KEPT = ("retain/token_accuracy", "retain/exact_match", "facts/shared_recall", *GENERAL_ABILITY)
"""What should be as it was before."""


class Standing(StrEnum):
    """Where a value stands on the way from before to gold."""

    at = "as gold"  # the intervals overlap
    short = "short of gold"  # still on the side of before
    past = "past gold"  # further than gold: over-forgetting
    away = "away from gold"  # further from gold than before, on the side of before
    off = "off gold"  # differs, where before was as gold or is not known


class Change(StrEnum):
    """Where a value stands against before, for what should be kept."""

    kept = "as before"
    better = "better"
    worse = "worse"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in a comparison; ``target`` and ``gold`` are the models to read it against."""

    label: str
    role: Role
    run: RunData
    model: ModelResult
    target: ModelResult | None = None
    gold: ModelResult | None = None

    def estimate(self, metric: str) -> Estimate | None:
        return self.model.metrics.get(metric)

    def distance(self, metric: str) -> float | None:
        """Signed distance to gold."""
        here, gold = self.estimate(metric), self.gold.metrics.get(metric) if self.gold else None
        return None if here is None or gold is None or self.role == "gold" else here.value - gold.value

    def standing(self, metric: str) -> Standing | None:
        here = self.estimate(metric)
        gold = self.gold.metrics.get(metric) if self.gold else None
        if here is None or gold is None or self.role == "gold":
            return None
        return standing(here, gold=gold, before=self.target.metrics.get(metric) if self.target else None)

    def change(self, metric: str) -> Change | None:
        here = self.estimate(metric)
        before = self.target.metrics.get(metric) if self.target else None
        if here is None or before is None or self.role != "unlearned":
            return None
        return change(here, before=before, direction=metric_of(metric).direction)


def metric_of(name: str) -> Metric:
    """The registered metric, or a bare description of one that a later version wrote."""
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
        )


def overlap(a: Estimate, b: Estimate) -> bool | None:
    """Whether two intervals share a point; None where there is no interval to speak of."""
    ends = (a.low, a.high, b.low, b.high)
    if any(end is None or math.isnan(end) for end in ends) or math.isnan(a.value) or math.isnan(b.value):
        return None
    assert a.low is not None
    assert a.high is not None
    assert b.low is not None
    assert b.high is not None
    return a.low <= b.high and b.low <= a.high


def standing(here: Estimate, *, gold: Estimate, before: Estimate | None) -> Standing | None:
    together = overlap(here, gold)
    if together is None:
        return None
    if together:
        return Standing.at
    if before is None or overlap(before, gold) is not False:
        return Standing.off
    if (here.value - gold.value) * (before.value - gold.value) < 0:
        return Standing.past
    return Standing.short if abs(here.value - gold.value) <= abs(before.value - gold.value) else Standing.away


def change(here: Estimate, *, before: Estimate, direction: str) -> Change | None:
    together = overlap(here, before)
    if together is None or direction == "gold":
        return None
    if together:
        return Change.kept
    return Change.better if (here.value > before.value) == (direction == "up") else Change.worse


def run_labels(runs: list[RunData]) -> list[str]:
    """The runs' names, with the directory's where a name says too little."""
    names = [run.name for run in runs]
    return [
        run.name if names.count(run.name) == 1 else f"{run.name} ({run.path.resolve().name})" for run in runs
    ]


def comparison_rows(runs: list[RunData]) -> list[Row]:
    """Targets, then gold models, then what the runs made of them.

    A target or gold shared by several runs (same weights, measured on the same data) stands there once.
    """
    labels = run_labels(runs)
    rows: list[Row] = []
    roles: tuple[tuple[Role, str], ...] = (("target", "before"), ("gold", "gold"))
    for role, word in roles:
        first: dict[object, tuple[str, RunData]] = {}
        for label, run in zip(labels, runs, strict=True):
            if role in run.models:
                digest = run.models[role].hash
                first.setdefault((digest, data_hashes(run)) if digest else run.path, (label, run))
        for label, run in first.values():
            rows.append(
                Row(
                    label=word if len(first) == 1 else f"{word} ({label})",
                    role=role,
                    run=run,
                    model=run.models[role],
                    target=run.models.get("target"),
                    gold=run.models.get("gold"),
                )
            )
    made: tuple[Role, ...] = ("unlearned", "model")
    for label, run in zip(labels, runs, strict=True):
        rows.extend(
            Row(
                label=label,
                role=role,
                run=run,
                model=run.models[role],
                target=run.models.get("target"),
                gold=run.models.get("gold"),
            )
            for role in made
            if role in run.models
        )
    return rows


def results(rows: list[Row]) -> list[Row]:
    """The rows that a run is about: neither before nor gold."""
    return [row for row in rows if row.role in ("unlearned", "model")]


def metric_names(rows: Iterable[Row]) -> list[str]:
    """Every metric any row has, in the registry's order, unknown ones last."""
    there = {name for row in rows for name in row.model.metrics}
    return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())


def data_hashes(run: RunData) -> tuple[tuple[str, str], ...]:
    """What identifies the data of a run, corpus by corpus."""
    return tuple(
        (corpus, str(next((value for key, value in fields.items() if "sha" in key or "hash" in key), None)))
        for corpus, fields in sorted(run.data.items())
    )


def differing_corpora(runs: list[RunData]) -> list[str]:
    """Corpora that are not the same in all runs: their numbers must not be compared."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for corpus, digest in data_hashes(run):
            found.setdefault(corpus, set()).add(digest)
    return [corpus for corpus, digests in found.items() if len(digests) > 1]


def not_separable(rows: list[Row], *, confidence: str) -> str | None:
    """One sentence on which runs the data cannot tell apart; None where there are no such."""
    shown = results(rows)
    found = []
    for metric in (*FORGOTTEN, *KEPT):
        there = [(row.label, value) for row in shown if (value := row.estimate(metric)) is not None]
        pairs = [(a, b) for (a, x), (b, y) in combinations(there, 2) if overlap(x, y)]
        total = math.comb(len(there), 2)
        if not pairs:
            continue
        if len(pairs) == total and total > 1:
            which = "all of them"
        elif len(pairs) <= 3:
            which = "; ".join(f"{a} and {b}" for a, b in pairs)
        else:
            which = f"{len(pairs)} of {total} pairs"
        found.append(metric_of(metric).label + (f" ({which})" if len(there) > 2 else ""))
    if not found:
        return None
    who = f"{shown[0].label} and {shown[1].label} on " if len(shown) == 2 else ""
    return f"Not separable, because their {confidence} intervals overlap: {who}{listed(found)}."
