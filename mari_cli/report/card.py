"""The robustness card of an audit, as a report shows it: a line for each case."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mari_cli.metrics.estimate import Estimate
from mari_cli.report.format import interval, number
from mari_cli.report.read import RunData, estimates_of

BESIDE = {"target": "before", "model": "now", "unlearned": "now", "gold": "gold"}
"""The models of an audit, by role, in the order in which they are read."""
GOOD = ("as gold", "less than before")
"""Verdicts that nothing is left to say against."""


@dataclass(frozen=True)
class CardLine:
    attack: str
    says: str
    cells: list[tuple[str, str]]
    """(value, interval) of each model."""
    n: int
    verdict: str
    tone: str


@dataclass(frozen=True)
class Card:
    models: list[str]
    lines: list[CardLine]


def robustness_card(runs: list[RunData]) -> Card | None:
    """Of one run that was audited; None of any other."""
    rows = runs[0].result.get("audit") if len(runs) == 1 else None
    if not rows:
        return None
    roles = [role for role in BESIDE if role in runs[0].models]
    return Card([BESIDE[role] for role in roles], [_line_of(row, roles) for row in rows])


def _line_of(row: Mapping[str, Any], roles: list[str]) -> CardLine:
    of_models: dict[str, Estimate] = estimates_of(row["models"])
    estimates = [of_models.get(role) for role in roles]
    cells = [
        ("–", "") if found is None else (number(found.value), interval(found.low, found.high))
        for found in estimates
    ]
    tone = "good" if row["verdict"] in GOOD else "past"
    return CardLine(
        row["attack"].replace("_", " "),
        row["says"],
        cells,
        next(iter(of_models.values())).n,
        row["verdict"],
        tone,
    )
