"""The request × step matrix: what a model holds of every request after each of them was unlearned.

A row is one metric of one request, of the retain set or of the holdout; a cell is the model after so many
requests. Each model is measured once, on all items; a row takes those of its request. A cell is read by a
paired difference on its items: of a request whose turn has been, against the model just after that turn
(does it come back?); of one that nobody has asked to forget yet, of the retain set and of the holdout,
against the model before the first request (does it erode?).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from mari_cli.metrics.aggregation import Aggregation, mean
from mari_cli.metrics.corpora import METRICS
from mari_cli.metrics.difference import Difference, paired_difference
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import ItemValues, Resamplable, take_apart, what_differs
from mari_cli.metrics.joint import resampled
from mari_cli.metrics.metric import Metric
from mari_cli.metrics.statistics import How, mean_estimate

KEY_DIGITS = 16
"""Of a record's hash, as many as an item has."""

BESIDE = ("holdout/answer_nll",)
"""Metrics that are shown although no verdict counts them."""
UNSEEN_RECALL = "holdout/exact_match"
"""A metric that has rows although neither a verdict nor a distance counts it."""


class CellReading(StrEnum):
    """What a cell says, beside the one that it is read against."""

    turn = "its turn"  # the request was unlearned just now
    still = "as then"  # not separable from the model just after its turn
    back = "comes back"  # towards the model before the first request
    further = "falls further"  # away from it
    kept = "as before"  # not separable from the model before the first request
    erodes = "erodes"  # the way that its own unlearning will go, or worse where that is known
    better = "better"
    moved = "moved"  # separable, and nothing says which way is worse


MEANINGS = {
    CellReading.turn: "unlearned in this step",
    CellReading.still: "not separable from just after its turn",
    CellReading.back: "since its turn moved back towards the model before the first request",
    CellReading.further: "since its turn moved further away from the model before",
    CellReading.kept: "not separable from the model before the first request",
    CellReading.erodes: "worse than the model before, although nobody asked yet or it is to be kept",
    CellReading.better: "better than the model before",
    CellReading.moved: "separable from the model before, and nothing says which way is worse",
}


@dataclass(frozen=True)
class MatrixCell:
    """One metric of one model; ``gold``: that of the gold model of that step, where there is one."""

    value: Estimate
    reading: str = ""
    gold: Estimate | None = None
    as_gold: bool | None = None
    """Whether the two are not separable; None where nothing judges it."""


@dataclass(frozen=True)
class MatrixRow:
    of: str
    """`1`, `2`, … for a request; `retain` or `holdout`."""
    metric: str
    cells: list[MatrixCell | None]
    """One for each step, the model before the first request included."""


def rows_of(
    requests: Sequence[set[str]],
    steps: Sequence[Sequence[ItemValues]],
    golds: Mapping[int, Sequence[ItemValues]],
    how: How,
) -> list[MatrixRow]:
    """The matrix. ``requests``: the record keys of each; ``steps``: the items of the model before the first
    request and after each; ``golds``: by step, those of its gold model."""
    found = []
    for metric in METRICS:
        sets = _sets_of(metric)
        if "forget" in sets:
            for number, keys in enumerate(requests, start=1):
                parts = {step: _of_request(metric, items, keys) for step, items in enumerate(steps)}
                beside = {step: _of_request(metric, items, keys) for step, items in golds.items()}
                found.append(_row(str(number), metric, parts, beside, how, turn=number))
        elif sets:
            parts = {step: take_apart(metric, items) for step, items in enumerate(steps)}
            beside = {step: take_apart(metric, items) for step, items in golds.items()}
            found.append(_row(sets[0], metric, parts, beside, how))
    return [row for row in found if any(row.cells)]


def _sets_of(metric: Metric) -> tuple[str, ...]:
    """The sets of a metric that a verdict or a distance counts, or of the holdout; of any other none."""
    if not isinstance(metric.aggregate, Aggregation):
        return ()
    counts = metric.role is not None or metric.distance_term is not None
    unseen = metric.name in BESIDE or metric.name == UNSEEN_RECALL
    return metric.aggregate.sets if counts or unseen else ()


def _of_request(metric: Metric, items: Sequence[ItemValues], keys: set[str]) -> Resamplable | None:
    short = {key[:KEY_DIGITS] for key in keys}
    return take_apart(metric, [item for item in items if item.set != "forget" or item.key in short])


def _row(
    of: str,
    metric: Metric,
    parts: Mapping[int, Resamplable | None],
    golds: Mapping[int, Resamplable | None],
    how: How,
    turn: int | None = None,
) -> MatrixRow:
    cells: list[MatrixCell | None] = []
    for step, part in parts.items():
        if part is None:
            cells.append(None)
            continue
        gold = golds.get(step)
        apart = _difference(part, gold, how)
        cells.append(
            MatrixCell(
                estimate_of(part, how),
                _judge_cell(step, turn, parts, metric, how),
                None if gold is None else estimate_of(gold, how),
                None if apart is None or apart.separable is None else not apart.separable,
            )
        )
    return MatrixRow(of, metric.name, cells)


def _judge_cell(
    step: int, turn: int | None, parts: Mapping[int, Resamplable | None], metric: Metric, how: How
) -> str:
    if step == 0:
        return ""
    if step == turn:
        return CellReading.turn
    asked = turn is not None and step > turn
    apart = _difference(parts[step], parts[turn if asked and turn else 0], how)
    if apart is None or apart.separable is None:
        return ""
    if not apart.separable:
        return CellReading.still if asked else CellReading.kept
    if turn is None:
        if metric.direction == "gold":
            return CellReading.moved
        return CellReading.better if (apart.value > 0) == (metric.direction == "up") else CellReading.erodes
    forgetting = _difference(parts.get(turn), parts[0], how)
    if forgetting is None or not forgetting.separable:
        return CellReading.moved
    onward = apart.value * forgetting.value > 0
    if asked:
        return CellReading.further if onward else CellReading.back
    return CellReading.erodes if onward else CellReading.moved


def _difference(a: Resamplable | None, b: Resamplable | None, how: How) -> Difference | None:
    if a is None or b is None or what_differs(a, b):
        return None
    return paired_difference(a, b, how)


def estimate_of(part: Resamplable, how: How) -> Estimate:
    """The metric with its bootstrap interval over items; of means of yes and no Wilson's."""
    if part.combine is mean:
        return mean_estimate(part.values[0][:, 0], how)
    n = sum(len(of_set) for of_set in part.items)
    if min(len(of_set) for of_set in part.items) == 1:
        return Estimate(value=part.value, n=n)
    drawn = resampled({"": part}, resamples=how.resamples, seed=how.seed)[""]
    tail = (1 - how.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    if low == high:  # no draw disagreed, which is no certainty
        return Estimate(value=part.value, n=n)
    return Estimate(value=part.value, n=n, low=float(low), high=float(high))


# -- a matrix as result.json holds it ------------------------------------------------------------------------


def shown_metrics(found: Mapping[str, Any]) -> list[str]:
    """Full names of the metrics of a matrix that a short table shows: those that a verdict counts, and
    BESIDE."""
    there = {row["metric"] for row in found["rows"]}
    judged = [metric.name for role in ("forgotten", "kept") for metric in METRICS if metric.role == role]
    return [name for name in (*judged, *BESIDE) if name in there]


def label_of_row(found: Mapping[str, Any], of: str) -> str:
    """The name of a request; `retain` and `holdout` as they are."""
    names = {str(request["number"]): str(request["label"]) for request in found["requests"]}
    return names.get(of, of)


def legend(found: Mapping[str, Any], word: Callable[[str], str] = str) -> str:
    """One line that explains the words in the cells of a matrix; ``word`` is how a cell shows a reading."""
    used = {cell["reading"] for row in found["rows"] for cell in row["cells"] if cell is not None}
    told = [f"{word(reading)} = {MEANINGS[reading]}" for reading in CellReading if reading in used]
    return "; ".join(told)
