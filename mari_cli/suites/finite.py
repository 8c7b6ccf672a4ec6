"""Items with a NaN or infinite number: they are left out of every metric, counted and named.

A model may overflow on a few texts. The other items are measured, and n is their number.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mari_cli.errors import UserError, counted

NAMED = 5
"""Items that a note names; of further items it gives the number."""


def is_finite(value: Any) -> bool:
    """Whether every number in ``value`` is finite, at any depth."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(is_finite, value.values()))
        case list() | tuple():
            return all(map(is_finite, value))
        case _:
            return True


def leave_out(bad: Sequence[int], count: int, *, model: str, what: str) -> list[str]:
    """A note on the items ``bad`` of the ``count`` items of ``what``; none if all are finite.

    Raises UserError where no item is left.
    """
    if not bad:
        return []
    if len(bad) == count:
        raise UserError(
            f"{model}: all {counted(count, 'item')} of {what} have a score that is NaN or infinite",
            "the model overflows: take an earlier step of its training, or measure in float32",
        )
    named = ", ".join(map(str, bad[:NAMED])) + (", …" if len(bad) > NAMED else "")
    items = "item" if len(bad) == 1 else "items"
    verb = "is" if len(bad) == 1 else "are"
    return [
        f"{model}: {len(bad)} of {count} {what} items {verb} left out of every figure, because a score is "
        f"NaN or infinite: {items} {named}"
    ]


def finite_rows(rows: Iterable[Mapping[str, Any]], *, model: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a suite in which all numbers are finite, and notes on the other rows."""
    kept: list[dict[str, Any]] = []
    notes: list[str] = []
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(row["set"], []).append(row)
    for name, of_set in by_set.items():
        bad = [row["item"] for row in of_set if not is_finite(row)]
        notes += leave_out(bad, len(of_set), model=model, what=f"`{name}`")
        kept += [dict(row) for row in of_set if is_finite(row)]
    return kept, notes
