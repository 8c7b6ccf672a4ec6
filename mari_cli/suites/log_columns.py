"""Columns of a log, each with values by item, as rows of `tofu_numbers`.

Every column of a set must have the same items, each once, and numbers that the column allows. A column's
values are indexed by their items' numbers, or are a list whose first value is item 0's.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, log
from typing import Any

from mari_cli.data.records import Record
from mari_cli.errors import UserError, counted
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.generation import verbatim_rouge_l
from mari_cli.metrics.membership import privleak
from mari_cli.suites.suite import Row
from mari_cli.suites.tofu_numbers import SETS, of_losses

LOSSES = ("answer_nll", "paraphrase_nll", "wrong_nlls")
"""Columns of losses."""
SAME = 1e-6
"""Two values closer than this are one value, rounded."""
SAME_PRIVLEAK = 1e-3
"""The same for privleak, in percent."""
SAME_P = 0.01
"""Two p-values whose logarithms are closer than this are one."""
WHOLE = "give the log as the evaluation wrote it, or evaluate the model again"

Found = Mapping[str, tuple[str, Any]]
"""Of one set: our name of a column to its name in the log and its values there, or None without values."""


@dataclass(frozen=True)
class Log:
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: dict[str, float] = field(default_factory=dict)
    """Means that the log itself gives, under our names."""
    asked: dict[str, list[str]] = field(default_factory=dict)
    """By set, the questions in the order of the items, if the log has texts. They are not stored."""

    def disagreements(self, metrics: Mapping[str, Estimate]) -> list[str]:
        """A sentence for each mean of the log that its items do not give, neither by our definition nor,
        where OpenUnlearning's has a name of its own, by OpenUnlearning's."""
        told = []
        for name, said in self.said.items():
            forms = [form for form in (name, f"{name}_open_unlearning") if form in metrics]
            if forms and not any(_same(name, said, metrics[form].value) for form in forms):
                told.append(_disagreement(forms[0], said, metrics))
        return told


def _disagreement(name: str, said: float, metrics: Mapping[str, Estimate]) -> str:
    """The sentence for one mean. It explains a privleak that was computed without a gold model."""
    found = metrics[name].value
    auc = metrics.get("tofu/min_k_auc")
    if name == "tofu/privleak" and auc is not None and abs(said - privleak(auc.value, 0.5)) <= SAME_PRIVLEAK:
        return (
            f"the log's own privleak, {said:.6g}, is against an AUC of .5, which OpenUnlearning takes where "
            f"it is given no retain model's log; against the gold model's AUC it is {found:.6g}"
        )
    return f"the log says {name} = {said:.6g}, where its items give {found:.6g}"


def _same(name: str, said: float, found: float) -> bool:
    if "forget_quality" not in name:
        return abs(said - found) <= SAME
    if min(said, found) <= 0:  # a p-value below the smallest float
        return said == found
    return abs(log(said) - log(found)) <= SAME_P


def require(name: str, where: str, found: Found, wanted: Sequence[str]) -> None:
    """Refuse a set of a log that lacks one of the columns ``wanted``."""
    for ours in wanted:
        if found[ours][1] is None:
            raise UserError(
                f"{where}: the {SETS[name]} have no `{found[ours][0]}`",
                "evaluate the model again with it: a truth ratio needs the losses of paraphrases and of "
                "wrong answers, a probability those of answers",
            )


def add(log: Log, name: str, where: str, found: Found) -> list[Row]:
    """Check the columns of one set against each other, and add their rows and notes to ``log``; returns the
    rows. Raises UserError."""
    columns = {
        ours: column_of(values, KINDS[ours], f"{where}: `{theirs}`")
        for ours, (theirs, values) in found.items()
        if values is not None
    }
    first = next(iter(columns))
    items = columns[first].keys()
    for ours, column in columns.items():
        if apart := sorted(items ^ column.keys()):
            raise UserError(
                f"{where}: `{found[first][0]}` holds {counted(len(items), 'item')} and `{found[ours][0]}` "
                f"{len(column)}, and item {apart[0]} is not in both",
                WHOLE,
            )
    texts = columns.pop("texts", None)
    if texts and "rouge_l_recall" in columns:
        log.notes.extend(_check_rouge(name, columns["rouge_l_recall"], texts))
    keys = _keys(name, where, texts) if texts else {}
    if texts:
        log.asked[name] = [texts[item][0] for item in sorted(items)]
    kept = columns.keys() - set(LOSSES)
    rows = []
    for item in sorted(items):
        row: Row = {"set": name, "item": item}
        row |= {"key": keys[item][:16]} if keys else {}
        row |= of_losses(name, *(columns[ours][item] if ours in columns else None for ours in LOSSES))
        rows.append(row | {ours: columns[ours][item] for ours in sorted(kept)})
    log.rows.extend(rows)
    return rows


def _keys(name: str, where: str, texts: Mapping[int, list[str]]) -> dict[int, str]:
    """A hash of question and true answer for each item. Raises UserError where two items have the same."""
    found: dict[int, str] = {}
    first: dict[str, int] = {}
    for item in sorted(texts):
        question, _, truth = texts[item]
        found[item] = Record(prompt=question, text=truth).key
        if (before := first.setdefault(found[item], item)) != item:
            raise UserError(
                f"{where}: items {before} and {item} of the {SETS[name]} have the same question and answer",
                "a question that is asked twice counts twice: leave one out of the evaluation",
            )
    return found


def _check_rouge(name: str, logged: Mapping[int, float], texts: Mapping[int, list[str]]) -> list[str]:
    apart = [abs(verbatim_rouge_l(said, truth) - logged[i]) for i, (_, said, truth) in texts.items()]
    differing = [gap for gap in apart if gap > SAME]
    if not differing:
        return []
    return [
        f"the ROUGE-L recall of {len(differing)} of {len(apart)} {SETS[name]} is not that of their texts in "
        f"the log (up to {max(differing):.3f} apart); the logged one is used"
    ]


def column_of(values: Any, kind: "ColumnType", where: str) -> dict[int, Any]:
    """Values by item. A list of losses may have another length for each item. Raises UserError."""
    if not isinstance(values, dict | list) or not values:
        raise UserError(f"{where} holds no values by item", WHOLE)
    column: dict[int, Any] = {}
    for key, value in by_item(values).items():
        item = item_number(key)
        if item is None:
            raise UserError(f"{where}: `{key[:60]}` is no item number", WHOLE)
        if item in column:
            raise UserError(f"{where}: item {item} is there twice", WHOLE)
        if kind is _LOSSES:
            value = list(value.values()) if isinstance(value, dict) else value
            value = value if isinstance(value, list) else [value]
        if not kind.holds(value):
            shown = value[0] if kind is _LOSSES and len(value) == 1 else value
            raise UserError(
                f"{where}: item {item} is {json.dumps(shown)[:60]}, not {kind.words}",
                _NONE if shown is None else kind.hint,
            )
        column[item] = value
    return column


def by_item(values: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """``values`` by item number as text: the first value of a list is item 0's."""
    return {str(place): value for place, value in enumerate(values)} if isinstance(values, list) else values


def item_number(key: str) -> int | None:
    """The number of an item from `7`, or from `7.0` as some logs have it."""
    return int(key.partition(".")[0]) if re.fullmatch(r"\d{1,18}(\.0*)?", key) else None


@dataclass(frozen=True)
class ColumnType:
    """The values that a column allows."""

    words: str
    holds: Callable[[Any], bool]
    hint: str = WHOLE


def _number(value: Any) -> bool:
    """Whether ``value`` is a finite number; JSON's integers may be too large for a float."""
    return (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53) or (
        isinstance(value, float) and isfinite(value)
    )


def _loss(value: Any) -> bool:
    return _number(value) and value > -SAME


_NONE = (
    "a value that is not there cannot be counted: leave the item out of every column, or evaluate it again"
)
_COLLAPSED = "a model whose losses are not numbers has no truth ratio: evaluate it again in float32"
_LOSS = ColumnType("a loss in nats", _loss, _COLLAPSED)
_LOSSES = ColumnType(
    "losses of wrong answers in nats", lambda value: bool(value) and all(map(_loss, value)), _COLLAPSED
)


def _in_0_1(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


_RECALL = ColumnType("a recall in [0, 1]", _in_0_1)
SHARE = ColumnType("a share in [0, 1]", _in_0_1)
SCORE = ColumnType("a number", _number)
RATIO = ColumnType("a truth ratio", lambda value: _number(value) and value >= 0, _COLLAPSED)
KINDS = {
    "answer_nll": _LOSS,
    "paraphrase_nll": _LOSS,
    "wrong_nlls": _LOSSES,
    "tokens": ColumnType(
        "a number of tokens", lambda value: _number(value) and value == int(value) and value > 0
    ),
    "rouge_l_recall": _RECALL,
    "rouge_1_recall": _RECALL,
    "extraction_strength_open_unlearning": SHARE,
    "exact_memorization_open_unlearning": SHARE,
    "ratio": RATIO,
    "texts": ColumnType(
        "question, generated answer and true answer",
        lambda value: isinstance(value, list) and len(value) == 3 and all(isinstance(t, str) for t in value),
    ),
}
