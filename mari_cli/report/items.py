"""The forget items of one run one by one, those that look most like still known first. No word of them."""

import math
from dataclasses import dataclass

from mari_cli.metrics.items import ItemValues
from mari_cli.report import numbers
from mari_cli.report.comparison import Row

MOST = 200
"""Items shown."""

_NOW = {
    "exact_match": "exact match",
    "extraction_strength": "extraction strength",
    "verbatim_rouge_l": "ROUGE-L",
    "rouge_l_recall": "ROUGE-L",
    "probability": "probability",
    "truth_ratio": "truth ratio",
    "log_truth_ratio": "log truth ratio",
    "min_k": "min-k",
    "recalled": "told",
    "tokens": "tokens",
}
"""What is shown of the model as it is now, beside its losses, and what it is called."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    text: str
    order: float | str
    """What a column is sorted by."""


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    suite: str | None
    columns: list[str]
    rows: list[list[Cell]]
    total: int
    """Items there are."""
    has_gold: bool


def item_table(row: Row, suite: str | None) -> ItemTable | None:
    """Of the set `forget`: first whose loss is furthest below gold's, or lowest where there is no gold model.
    None without losses of items."""

    def of(role: str) -> dict[int, ItemValues]:
        return {
            item.item: item
            for item in row.run.items_of(role)
            if (item.suite, item.set) == (suite, "forget") and "answer_nll" in item.values
        }

    now, before, gold = of(row.role), of("target"), of("gold")
    if not now:
        return None
    facts = any(item.fact for item in now.values())
    shown = [name for name in _NOW if any(name in item.values for item in now.values())]
    columns = ["item", "hash", *(["fact"] if facts else []), *(["loss before"] if before else []), "loss now"]
    columns += ["loss of gold", "now − gold"] if gold else []
    rows = []
    for number, item in now.items():
        cells = [Cell(text=str(number), order=number), _word((item.key or "")[:8])]
        cells += [_word(item.fact or "")] if facts else []
        cells += [_loss(before.get(number))] if before else []
        cells += [_loss(item)]
        if gold:
            cells += [_loss(gold.get(number)), _cell(_behind(item, gold.get(number)), signed=True)]
        rows.append(
            (_worst(item, gold.get(number)), cells + [_cell(item.values.get(name)) for name in shown])
        )
    ordered = [cells for _, cells in sorted(rows, key=lambda entry: (entry[0], entry[1][0].order))]
    return ItemTable(
        suite=suite,
        columns=columns + [_NOW[name] for name in shown],
        rows=ordered[:MOST],
        total=len(ordered),
        has_gold=bool(gold),
    )


def _behind(item: ItemValues, gold: ItemValues | None) -> float | None:
    return None if gold is None else item.values["answer_nll"] - gold.values["answer_nll"]


def _worst(item: ItemValues, gold: ItemValues | None) -> float:
    """Small for what is still known; what is not finite comes last."""
    behind = _behind(item, gold)
    value = item.values["answer_nll"] if behind is None else behind
    return value if math.isfinite(value) else math.inf


def _loss(item: ItemValues | None) -> Cell:
    return _cell(None if item is None else item.values["answer_nll"])


def _cell(value: float | None, *, signed: bool = False) -> Cell:
    if value is None:
        return Cell(text="–", order=math.inf)
    return Cell(text=_short(value, signed), order=value if math.isfinite(value) else math.inf)


def _short(value: float, signed: bool) -> str:
    """Whole numbers as such."""
    whole = value.is_integer() and abs(value) < 1e5
    return f"{value:.0f}" if whole else numbers.number(value, signed=signed)


def _word(text: str) -> Cell:
    return Cell(text=text, order=text)
