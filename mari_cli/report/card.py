"""The robustness card of an audit, as a report shows it: a line for each case."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mari_cli.report.format import interval, number
from mari_cli.report.read import RunData, estimates_of
from mari_cli.search.aim import BESIDE

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


MEANINGS = {
    "as gold": "this attack, with so many items, does not tell it from gold",
    "less than before": "it brings back less than from the model before; without gold nobody can say more",
    "as before": "it brings back as much as from the model before",
    "no power here": "the attack brings no more out of the model before than out of gold: it clears nobody",
    "too few items": "no result on so few items could be told from gold",
    "not forgotten": "more than by gold is recalled without any attack",
    "comes back": "the attack brings back more than from gold",
    "hidden, not gone": "more than in gold is there, and the attack shows it",
    "nearer to before": "its answers are nearer to those of the model before than to gold's",
    "can be told from gold": "its outputs differ from gold's by more than a second gold's do",
    "told from gold, floor unknown": "its outputs differ from gold's; no second gold says how much two golds "
    "differ",
}
"""What each verdict means."""


@dataclass(frozen=True)
class Curve:
    """What a case has seen of each model, step by step or layer by layer."""

    title: str
    at: list[str]
    lines: list[tuple[str, list[str]]]
    """(model, its values)."""


@dataclass(frozen=True)
class Card:
    models: list[str]
    lines: list[CardLine]
    legend: list[tuple[str, str]]
    """The verdicts that occur, and what each means."""
    curves: list[Curve]


def robustness_card(runs: list[RunData]) -> Card | None:
    """Of one run that was audited; None of any other."""
    rows = runs[0].result.get("audit") if len(runs) == 1 else None
    if not rows:
        return None
    roles = [role for role in BESIDE if role in runs[0].models]
    lines = [_line_of(row, roles) for row in rows]
    given = {line.verdict for line in lines}
    legend = [(verdict, meaning) for verdict, meaning in MEANINGS.items() if verdict in given]
    curves = [curve for row in rows for curve in _curves_of(row, roles)]
    return Card([BESIDE[role] for role in roles], lines, legend, curves)


def _line_of(row: Mapping[str, Any], roles: list[str]) -> CardLine:
    of_models = estimates_of(row["models"])
    cells = [
        ("–", "") if found is None else (number(found.value), interval(found.low, found.high))
        for found in map(of_models.get, roles)
    ]
    attack, verdict, n = row["attack"].replace("_", " "), row["verdict"], next(iter(of_models.values())).n
    return CardLine(attack, row["says"], cells, n, verdict, "good" if verdict in GOOD else "past")


SERIES = {
    "recall": "recall of the items that are not taught, after so many steps",
    "probability_by_layer": "probability of the answer, read from each layer",
    "rank_by_layer": "share of other answers that the probe of each layer finds less likely; 0.5 is chance",
    "log_probability_by_layer": "log-probability of the answer, nats per token, where the model before goes "
    "on from each layer",
}
"""By its name in the detail of a row, what a curve shows."""
SAID = {"steps_to_half": "steps to half of before", "depth": "share of what gold lacks"}
"""Single numbers of a detail, behind a curve."""


def _curves_of(row: Mapping[str, Any], roles: list[str]) -> list[Curve]:
    detail: Mapping[str, Mapping[str, Any]] = row["detail"]
    seen = [role for role in roles if role in detail]
    curves = []
    for name, says in SERIES.items():
        having = [role for role in seen if name in detail[role]]
        if not having:
            continue
        first = detail[having[0]]
        at = first.get("steps") or range(1, len(first[name]) + 1)
        also = [key for key in SAID if any(key in detail[role] for role in having)]
        lines = [
            (BESIDE[role], [*map(number, detail[role][name]), *(_said(detail[role], key) for key in also)])
            for role in having
        ]
        title = f"{row['attack']}, {row['case']}".replace("_", " ")
        curves.append(Curve(f"{title}: {says}", [*map(str, at), *(SAID[key] for key in also)], lines))
    return curves


def _said(detail: Mapping[str, Any], key: str) -> str:
    if key not in detail:
        return ""
    value = detail[key]
    return "never" if value is None else number(value) if isinstance(value, float) else str(value)
