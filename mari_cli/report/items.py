"""The items of one run by set, those first that need attention; their text is never shown."""

import math
from dataclasses import dataclass

from mari_cli.metrics.aggregation import Aggregation
from mari_cli.metrics.items import ItemValues
from mari_cli.metrics.likelihood import ANSWER_NLL
from mari_cli.report.comparison import ComparisonRow
from mari_cli.report.format import number
from mari_cli.suites.registry import METRICS

MOST = 200
"""Items shown of a forget set."""
MOST_OF_OTHERS = 50

_BESIDE = {"truth_ratio": "truth ratio", "tokens": "tokens", "cut": "cut"}
"""Values of a row that are no columns of metrics, and their headings; earlier versions wrote the first."""
_COLUMNS = {
    column.name: column
    for metric in METRICS.values()
    if isinstance(metric.aggregate, Aggregation)
    for column in metric.aggregate.columns
    if column.label
}


ItemCell = tuple[str, float | str]
"""A text, and the value by which its column is sorted."""


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    name: str
    """Name of the set, after its suite's name."""
    columns: list[str]
    rows: list[list[ItemCell]]
    total: int
    """The number of items of the set."""
    order: str
    """A sentence about which items come first."""


def item_tables(row: ComparisonRow) -> list[ItemTable]:
    """Tables of the sets of corpora and suites. Benchmarks have none: answers are only right or wrong."""
    asked = dict.fromkeys((item.suite, item.set) for item in row.run.items_of(row.role))
    own = {"forget", "retain", "holdout"}
    return [_table(row, suite, set) for suite, set in asked if suite is not None or set in own]


def _table(row: ComparisonRow, suite: str | None, set: str) -> ItemTable:
    def of(role: str) -> dict[int, ItemValues]:
        items = row.run.items_of(role)
        return {item.item: item for item in items if (item.suite, item.set) == (suite, set)}

    now, before, gold = of(row.role), of("target"), of("gold")
    there = dict.fromkeys(name for item in now.values() for name in item.values)
    leading = (name for name, column in _COLUMNS.items() if column.leads and name in there)
    main = next(leading, next(iter(there), ANSWER_NLL.name))
    word = _COLUMNS[main].label if main in _COLUMNS else main.replace("_", " ")
    forget = set == "forget" or "forget" in set.split("_")
    beside, versus = (gold, "gold") if forget or not before else (before, "before")
    facts = any(item.fact for item in now.values())
    labels = {name: column.label for name, column in _COLUMNS.items()} | _BESIDE
    shown = [name for name in labels if name in there and name != main]
    columns = ["item", "hash", *(["fact"] if facts else []), *([f"{word} before"] if before else [])]
    columns += [
        f"{word} now",
        *([f"{word} of gold"] if gold else []),
        *([f"now − {versus}"] if beside else []),
    ]
    sign = 1 if main == ANSWER_NLL.name else -1  # a low loss means that an item is known
    first = sign if forget else -sign
    rows = []
    for place, item in now.items():
        value, other = item.values.get(main), beside[place].values.get(main) if place in beside else None
        apart = None if value is None or other is None else value - other
        key = (item.key or "")[:8]
        cells: list[ItemCell] = [(str(place), place), (key, key)]
        cells += [(item.fact or "", item.fact or "")] if facts else []
        cells += [_value_cell(before.get(place), main)] if before else []
        cells += [_value_cell(item, main)]
        cells += [_value_cell(gold.get(place), main)] if gold else []
        cells += [_cell(apart, signed=True)] if beside else []
        cells += [_value_cell(item, name) for name in shown]
        by = apart if beside else value
        rows.append((first * by if by is not None and math.isfinite(by) else math.inf, place, cells))
    ordered = [cells for _, _, cells in sorted(rows, key=lambda entry: entry[:2])]
    return ItemTable(
        name=set if suite is None else f"{suite} / {set}",
        columns=columns + [labels[name] for name in shown],
        rows=ordered[: MOST if forget else MOST_OF_OTHERS],
        total=len(ordered),
        order=_describe_order(word, sign, forget, versus if beside else None),
    )


def _describe_order(word: str, sign: int, forget: bool, versus: str | None) -> str:
    low = (sign > 0) == forget
    if versus is None:
        return f"First whose {word} is {'lowest' if low else 'highest'}"
    other = "that of the gold model" if versus == "gold" else "the one before"
    return f"First whose {word} is furthest {'below' if low else 'above'} {other}"


def _value_cell(item: ItemValues | None, name: str) -> ItemCell:
    return _cell(None if item is None else item.values.get(name))


def _cell(value: float | None, *, signed: bool = False) -> ItemCell:
    if value is None:
        return "–", math.inf
    whole = value.is_integer() and abs(value) < 1e5
    text = f"{value:.0f}" if whole else number(value, signed=signed)
    return text, value if math.isfinite(value) else math.inf
