"""The same question in other words, in another language, and as a statement with a gap.

A question of the fictional corpus has these by rule, from its `UniqueKind`. Other questions have them from a
file of JSON lines:

    {"prompt": "Who taught Ada?", "paraphrases": ["Whose pupil was Ada?"],
     "translations": {"German": "Wer hat Ada unterrichtet?"}, "cloze": "Ada was taught by ___."}
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mari_cli.data.fictional import UNIQUE_KINDS
from mari_cli.data.files import read_table
from mari_cli.data.forms import TableRow, kind, listed, words
from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.places import place

GAP = "___"
"""What stands in a statement in place of the answer."""
FIELDS = ("prompt", "paraphrases", "translations", "cloze")
LANGUAGE = re.compile(r"\w[\w -]*")


@dataclass(frozen=True, kw_only=True)
class Rewording:
    """What else can be asked for one answer."""

    paraphrases: Sequence[str] = ()
    translations: Mapping[str, str] = field(default_factory=dict)
    """By language, in small letters."""
    cloze: str | None = None
    """The statement up to the `GAP`."""


def question_of(record: Record) -> str:
    """The question of ``record``: its prompt, or of a conversation the last turn."""
    return record.turns[-1].content if record.turns else record.prompt or ""


def asked_otherwise(record: Record, question: str) -> Record:
    """``record`` with ``question`` in place of its own."""
    turns = (*record.turns[:-1], record.turns[-1]._replace(content=question)) if record.turns else ()
    return replace(record, prompt=question, turns=turns)


# -- by rule -------------------------------------------------------------------------------------------------


def by_rule(record: Record) -> Rewording | None:
    """How ``record`` can be asked otherwise, if it is a unique fact as the fictional corpus writes it."""
    for of in UNIQUE_KINDS:
        name = _slot_of(of.question, "name", question_of(record))
        if name and _slot_of(of.answer, "value", record.text):
            return Rewording(
                paraphrases=[wording.format(name=name) for wording in of.paraphrases],
                translations={"german": of.german.format(name=name), "french": of.french.format(name=name)},
                cloze=of.cloze.format(name=name).partition(GAP)[0].rstrip(),
            )
    return None


def _slot_of(template: str, slot: str, text: str) -> str | None:
    """What stands in ``text`` in place of {slot} of ``template``; None where the texts differ elsewhere."""
    before, after = template.split(f"{{{slot}}}")
    inside = text.removeprefix(before).removesuffix(after)
    return inside if inside and text == f"{before}{inside}{after}" else None


# -- from a file ---------------------------------------------------------------------------------------------


def read_rewordings(path: str, *, key: str) -> dict[str, Rewording]:
    """By prompt, the rewordings in the file at ``path``, the value of ``key``. Raises UserError."""
    if not os.path.isfile(place(path)):
        raise UserError(
            f"no such file: `{path}`", f"`{key}` is a file of JSON lines, each with {listed(FIELDS)}"
        )
    rows = read_table(place(path), ".jsonl").take(list(FIELDS))
    found: dict[str, Rewording] = {}
    for number, row in enumerate(rows, start=1):
        where = f"record {number} of `{path}`"
        prompt = words(row, "prompt", where=where).strip()
        if prompt in found:
            raise UserError(f"{where} has the prompt of another record", "write all of a prompt in one line")
        found[prompt] = _rewording(row, where)
        if prompt in (*found[prompt].paraphrases, *found[prompt].translations.values()):
            raise UserError(f"{where} asks its prompt again, word for word", "leave this wording out")
    if not found:
        raise UserError(f"`{path}` holds no records", f"each line is an object with {listed(FIELDS)}")
    return found


def _rewording(row: TableRow, where: str) -> Rewording:
    if unknown := [name for name in row if name not in FIELDS]:
        raise UserError(f"{where} has a field `{unknown[0]}`", f"the fields are {listed(FIELDS)}")
    if not any(name in row for name in FIELDS[1:]):
        raise UserError(f"{where} has no other prompt", f"give one of {listed(FIELDS[1:])}")
    own: list[Any] = _content_of(row, "paraphrases", list, where)
    by_language: dict[str, Any] = _content_of(row, "translations", dict, where)
    for language in by_language:
        if not LANGUAGE.fullmatch(language):
            raise UserError(f"`{language}` in {where} names no language", "write it in letters, as `German`")
        if sum(other.lower() == language.lower() for other in by_language) > 1:
            raise UserError(
                f"{where} has `{language.lower()}` twice in `translations`", "one question for each language"
            )
    cloze = words(row, "cloze", where=where) if "cloze" in row else None
    if cloze is not None and (cloze.count(GAP) != 1 or not cloze.partition(GAP)[0].strip()):
        raise UserError(
            f"`cloze` in {where} needs one `{GAP}` with words before it",
            f"write it as `Ada was taught by {GAP}.`",
        )
    return Rewording(
        paraphrases=[words({"paraphrases": one}, "paraphrases", where=where).strip() for one in own],
        translations={
            language.lower(): words({language: one}, language, where=where).strip()
            for language, one in by_language.items()
        },
        cloze=cloze and cloze.partition(GAP)[0].rstrip(),
    )


def _content_of(row: TableRow, name: str, form: type, where: str) -> Any:
    """What is in the field ``name``, of type ``form`` and not empty; an empty one where there is no field."""
    value = row.get(name, form())
    if not isinstance(value, form):
        raise UserError(
            f"`{name}` in {where} is {kind(value)}, not {kind(form())}",
            "`paraphrases` is a list of texts, and `translations` an object: a text by its language",
        )
    if name in row and not value:
        raise UserError(f"`{name}` in {where} is empty", "fill it in, or leave the field out")
    return value
