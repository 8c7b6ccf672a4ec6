"""The request × step matrix of a run of several requests, as a report shows it: a heat table a metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from mari_cli.metrics.by_request import CellReading, label_of_row, legend, shown_metrics
from mari_cli.metrics.metric import Metric
from mari_cli.report.comparison import metric_of
from mari_cli.report.format import interval, number
from mari_cli.report.read import RunData, estimates_of

OPEN = 3
"""Tables that are open on the page; the others are folded."""
_TONES = {
    CellReading.turn: "short",
    CellReading.still: "good",
    CellReading.kept: "good",
    CellReading.back: "past",
    CellReading.further: "past",
    CellReading.erodes: "past",
}


@dataclass(frozen=True)
class HeatCell:
    value: str = "–"
    interval: str = ""
    reading: str = ""
    tone: str = ""
    gold: str = ""
    """Gold's value at that step, where there is one, and whether the two are separable."""
    heat: int = 0
    """Percent: how far the value is from 0 to the largest of the table."""


HeatTable = tuple[Metric, list[str], list[tuple[str, str, list[HeatCell]]]]
"""A metric, the steps, and the lines: label, number of items, and a cell for each step."""


def request_matrix(runs: list[RunData]) -> tuple[list[str], list[HeatTable], str] | None:
    """Sentences, tables, and what the words in the cells mean; None of any but one run of several
    requests."""
    found = runs[0].result.get("requests") if len(runs) == 1 else None
    if not found:
        return None
    return _sentences(found), [_table(found, name) for name in shown_metrics(found)], legend(found)


def _sentences(found: Mapping[str, Any]) -> list[str]:
    """What comes back and what erodes, over the metrics that are shown."""
    shown = shown_metrics(found)
    cells = [
        (row, step, cell)
        for row in found["rows"]
        if row["metric"] in shown
        for step, cell in zip(found["steps"], row["cells"], strict=True)
        if cell is not None
    ]
    told = []
    for reading, words in (
        (CellReading.back, "Comes back after later requests"),
        (CellReading.erodes, "Erodes before anybody asked, or of what is to be kept"),
        (CellReading.further, "Falls further after later requests"),
    ):
        places = [
            f"{label_of_row(found, row['of'])}, {metric_of(row['metric']).label}, {step}"
            for row, step, cell in cells
            if cell["reading"] == reading
        ]
        told.append(f"{words}: {'; '.join(places) if places else 'nothing separable'}.")
    return told


def _table(found: Mapping[str, Any], name: str) -> HeatTable:
    rows = [row for row in found["rows"] if row["metric"] == name]
    values = [abs(value) for row in rows for cell in row["cells"] if (value := _value(cell)) is not None]
    top = max(values, default=0.0) or 1.0
    if metric_of(name).is_share:
        top = 1.0
    lines = [
        (
            label_of_row(found, row["of"]),
            "/".join(dict.fromkeys(str(cell["value"]["n"]) for cell in row["cells"] if cell)),
            [_cell(cell, top) for cell in row["cells"]],
        )
        for row in rows
    ]
    return metric_of(name), list(found["steps"]), lines


def _value(cell: Mapping[str, Any] | None) -> float | None:
    value = None if cell is None else cell["value"]["value"]
    return value if value is not None and isfinite(value) else None


def _cell(cell: Mapping[str, Any] | None, top: float) -> HeatCell:
    if cell is None:
        return HeatCell()
    read = estimates_of({name: cell[name] for name in ("value", "gold") if cell[name] is not None})
    gold, value = "", read["value"]
    if "gold" in read:
        apart = {True: ", as gold", False: ", not as gold", None: ""}[cell["as_gold"]]
        gold = f"gold {number(read['gold'].value)}{apart}"
    return HeatCell(
        number(value.value),
        interval(value.low, value.high),
        cell["reading"],
        _TONES.get(cell["reading"], ""),
        gold,
        round(100 * min(1.0, abs(value.value) / top)) if isfinite(value.value) else 0,
    )
