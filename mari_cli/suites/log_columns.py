"""Columns of a log, each with values by item, to rows of `tofu_numbers`.

Every column of a set must hold the same items, each once, and numbers that can be what the column says.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, log
from typing import Any

from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.generation import verbatim_rouge_l
from mari_cli.suites.suite import Row
from mari_cli.suites.tofu_numbers import SETS, of_losses

LOSSES = ("answer_nll", "paraphrase_nll", "wrong_nlls")
"""Columns without which a set has no numbers."""
SAME = 1e-6
"""Two figures closer than this are one figure, rounded."""
SAME_P = 0.01
"""Two p-values whose logarithms are closer than this are one."""
WHOLE = "give the log as the evaluation wrote it, or evaluate the model again"

Found = Mapping[str, tuple[str, Any]]
"""Of one set, our name of a column to its name in the log and its values there, None where there are none."""


@dataclass(frozen=True)
class Log:
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: dict[str, float] = field(default_factory=dict)
    """Means that the log itself gives, under our names."""
    asked: dict[str, list[str]] = field(default_factory=dict)
    """By set, what was asked, in the order of the items, where the log has texts. It goes nowhere."""

    def disagreements(self, metrics: Mapping[str, Estimate]) -> list[str]:
        """A sentence for each of the log's own means that its items do not bear out."""
        return [
            f"the log says {name} = {said:.6g}, where its items give {metrics[name].value:.6g}"
            for name, said in self.said.items()
            if name in metrics and not _same(name, said, metrics[name].value)
        ]


def _same(name: str, said: float, found: float) -> bool:
    if "forget_quality" not in name:
        return abs(said - found) <= SAME
    if min(said, found) <= 0:  # a p-value below the smallest float
        return said == found
    return abs(log(said) - log(found)) <= SAME_P


def add(log: Log, name: str, where: str, found: Found) -> None:
    """Check the columns of one set against each other, and add their rows and what is to be said of them."""
    for ours in LOSSES:
        if found[ours][1] is None:
            raise UserError(
                f"{where}: the {SETS[name]} have no `{found[ours][0]}`",
                "evaluate the model again with it: their numbers need the losses of answers, paraphrases and "
                "wrong answers",
            )
    columns = {
        ours: column_of(values, KINDS[ours], f"{where}: `{theirs}`")
        for ours, (theirs, values) in found.items()
        if values is not None
    }
    items = columns["answer_nll"].keys()
    for ours, column in columns.items():
        if apart := sorted(items ^ column.keys()):
            raise UserError(
                f"{where}: `{found['answer_nll'][0]}` holds {len(items)} items and `{found[ours][0]}` "
                f"{len(column)}, and item {apart[0]} is not in both",
                WHOLE,
            )
    texts = columns.pop("texts", None)
    if texts and "rouge_l_recall" in columns:
        log.notes.extend(_compared(name, columns["rouge_l_recall"], texts))
    keys = _keys(name, where, texts) if texts else {}
    if texts:
        log.asked[name] = [texts[item][0] for item in sorted(items)]
    kept = columns.keys() - set(LOSSES)
    for item in sorted(items):
        row: Row = {"set": name, "item": item}
        row |= {"key": keys[item][:16]} if keys else {}
        row |= of_losses(name, *(columns[ours][item] for ours in LOSSES))
        log.rows.append(row | {ours: columns[ours][item] for ours in sorted(kept)})


def _keys(name: str, where: str, texts: Mapping[int, list[str]]) -> dict[int, str]:
    """A hash of question and true answer of each item; refused where two items have the same."""
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


def _compared(name: str, logged: Mapping[int, float], texts: Mapping[int, list[str]]) -> list[str]:
    apart = [abs(verbatim_rouge_l(said, truth) - logged[i]) for i, (_, said, truth) in texts.items()]
    differing = [gap for gap in apart if gap > SAME]
    if not differing:
        return []
    return [
        f"the ROUGE-L recall of {len(differing)} of {len(apart)} {SETS[name]} is not that of their texts in "
        f"the log (up to {max(differing):.3f} apart); the logged one is used"
    ]


def column_of(values: Any, kind: "Kind", where: str) -> dict[int, Any]:
    """Values by item; a list of answers' losses may hold another number for each item."""
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where} holds no values by item", WHOLE)
    column = {}
    for key, value in values.items():
        if not key.isdecimal():
            raise UserError(f"{where}: `{key}` is no item number", WHOLE)
        if int(key) in column:
            raise UserError(f"{where}: item {int(key)} is there twice", WHOLE)
        if not kind.holds(value):
            raise UserError(f"{where}: item {key} is {json.dumps(value)[:60]}, not {kind.words}", kind.hint)
        column[int(key)] = [value] if kind is _LOSSES and not isinstance(value, list) else value
    return column


@dataclass(frozen=True)
class Kind:
    """What a value of a column must be."""

    words: str
    holds: Callable[[Any], bool]
    hint: str = WHOLE


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _loss(value: Any) -> bool:
    return _number(value) and value > -SAME


_COLLAPSED = "a model whose losses are not numbers has no truth ratio: evaluate it again in float32"
_LOSS = Kind("a loss in nats", _loss, _COLLAPSED)
_LOSSES = Kind(
    "losses of wrong answers in nats",
    lambda value: _loss(value) or (isinstance(value, list) and bool(value) and all(map(_loss, value))),
    _COLLAPSED,
)


def _in_0_1(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


_RECALL = Kind("a recall in [0, 1]", _in_0_1)
SHARE = Kind("a share in [0, 1]", _in_0_1)
SCORE = Kind("a number", _number)
RATIO = Kind("a truth ratio", lambda value: _number(value) and value >= 0, _COLLAPSED)
KINDS = {
    "answer_nll": _LOSS,
    "paraphrase_nll": _LOSS,
    "wrong_nlls": _LOSSES,
    "tokens": Kind("a number of tokens", lambda value: isinstance(value, int) and value > 0),
    "rouge_l_recall": _RECALL,
    "rouge_1_recall": _RECALL,
    "extraction_strength_open_unlearning": SHARE,
    "exact_memorization_open_unlearning": SHARE,
    "texts": Kind(
        "question, generated answer and true answer",
        lambda value: isinstance(value, list) and len(value) == 3 and all(isinstance(t, str) for t in value),
    ),
}
