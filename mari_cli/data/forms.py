"""The forms of a row of a table: a prompt with its answer, a conversation, or running text.

The forms are the usual ones: pairs of columns, Alpaca's instructions, the `messages` of OpenAI's interface,
the `conversations` of ShareGPT, and TRL's prompts and completions, which may be lists of messages. In a
conversation the last turn of the assistant is the answer, and all turns before it are the prompt.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mari_cli.config import FileCorpus
from mari_cli.data.records import Record, Turn
from mari_cli.errors import UserError, nearest

TableRow = Mapping[str, object]

ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user"} | dict.fromkeys(
    ("assistant", "gpt", "model", "chatgpt", "bot"), "assistant"
)
"""The role of a chat template by the lower-case names that data sets use for it."""


@dataclass(frozen=True)
class TableFormat:
    """The columns of a table that are read, and the function that makes a record of them."""

    columns: tuple[str, ...]
    record: Callable[[TableRow, str], Record]
    """Makes the record of a row. The second argument names the row in errors."""


def form_of(names: Sequence[str], config: FileCorpus, *, source: str, corpus: str) -> TableFormat:
    """The form that ``config`` sets, else the first known form for the columns ``names``.

    Raises UserError, with the existing columns, where a column is missing or no form is known.
    """
    if config.text_field is None and config.completion_field is None:
        return _recognised(names, source=source, corpus=corpus)
    for key in ("prompt_field", "completion_field", "text_field"):
        field: str | None = getattr(config, key)
        if field is not None and field not in names:
            similar = nearest(field, names)
            raise UserError(
                f"`{source}` has no field `{field}`; it has {listed(names)}",
                f"set `{corpus}.{key}` to " + (f"`{similar}`?" if similar else "one of those"),
            )
    if config.text_field is not None:
        return _text(config.text_field)
    assert config.prompt_field is not None, "the schema lets completion_field stand only beside prompt_field"
    assert config.completion_field is not None
    return _pair(config.prompt_field, config.completion_field)


def _recognised(names: Sequence[str], *, source: str, corpus: str) -> TableFormat:
    for prompt, completion in (("prompt", "completion"), ("question", "answer")):
        if prompt in names and completion in names:
            return _pair(prompt, completion)
    for field in ("messages", "conversations"):
        if field in names:
            return _conversation(field, names)
    if "instruction" in names and "output" in names:
        return _alpaca(names)
    if "text" in names:
        return _text("text")
    raise UserError(
        f"`{source}` has no fields `prompt`/`completion`, `question`/`answer`, `instruction`/`output`, "
        f"`messages`, `conversations` or `text`; it has {listed(names)}",
        f"set `{corpus}.prompt_field` and `{corpus}.completion_field`, or `{corpus}.text_field`",
    )


def _text(field: str) -> TableFormat:
    return TableFormat((field,), lambda row, where: Record(text=words(row, field, where=where)))


def _pair(prompt: str, completion: str) -> TableFormat:
    """Two columns of texts or, as in TRL, of lists of messages."""

    def record(row: TableRow, where: str) -> Record:
        parts = [(prompt, "user"), (completion, "assistant")]
        return answered(
            [
                turn
                for field, role in parts
                for turn in (
                    turns(row, field, where=where)
                    if _are_messages(row.get(field))
                    else [Turn(role, words(row, field, where=where))]
                )
            ],
            where=where,
        )

    return TableFormat((prompt, completion), record)


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _conversation(field: str, names: Sequence[str]) -> TableFormat:
    def record(row: TableRow, where: str) -> Record:
        said = turns(row, field, where=where)
        return answered([*_system(row, said, where=where), *said], where=where)

    return TableFormat((field, *_present(names, "system")), record)


def _alpaca(names: Sequence[str]) -> TableFormat:
    """Alpaca's columns. `input` is the text that the instruction is about; many rows have no `input`."""

    def record(row: TableRow, where: str) -> Record:
        instruction = words(row, "instruction", where=where)
        about = [words(row, "input", where=where)] if row.get("input") not in (None, "") else []
        said = [
            Turn("user", "\n\n".join([instruction, *about])),
            Turn("assistant", words(row, "output", where=where)),
        ]
        return answered([*_system(row, said, where=where), *said], where=where)

    return TableFormat(("instruction", "output", *_present(names, "input", "system")), record)


def _present(names: Sequence[str], *wanted: str) -> tuple[str, ...]:
    return tuple(name for name in wanted if name in names)


def _system(row: TableRow, said: Sequence[Turn], *, where: str) -> list[Turn]:
    """The system turn from the column `system`, if the conversation has no system turn."""
    if row.get("system") in (None, "") or any(turn.role == "system" for turn in said):
        return []
    return [Turn("system", words(row, "system", where=where))]


def answered(said: Sequence[Turn], *, where: str) -> Record:
    """The record of a conversation. Raises UserError for one without an answer to a user at its end."""
    *before, last = said
    if last.role != "assistant":
        raise UserError(
            f"{where} ends with a turn of the `{last.role}`, not with an answer",
            "end each conversation with a turn of the assistant's",
        )
    if not any(turn.role == "user" for turn in before):
        raise UserError(f"{where} has no turn of the user's before the answer", "an answer needs a prompt")
    if len(before) == 1:
        return Record(prompt=before[0].content, text=last.content)
    shown = "\n\n".join(f"{turn.role}: {turn.content}" for turn in before)
    return Record(prompt=shown, turns=tuple(before), text=last.content)


def turns(row: TableRow, field: str, *, where: str) -> list[Turn]:
    """The conversation in ``field``, of messages with `role` and `content`, or with `from` and `value`."""
    value = _value(row, field, where=where)
    if not isinstance(value, list) or not value:
        raise UserError(
            f"`{field}` in {where} is {'empty' if value == [] else kind(value)}, not a list of turns",
            'write each turn as an object, like {"role": "user", "content": "…"}',
        )
    return [
        _turn(message, f"turn {number} of `{field}` in {where}") for number, message in enumerate(value, 1)
    ]


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise UserError(
            f"{where} is {kind(message)}, not an object",
            'write each turn as an object, like {"role": "user", "content": "…"}',
        )
    role, content = ("role", "content") if "role" in message else ("from", "value")
    side = words(message, role, where=where)
    if side.lower() not in ROLES:
        raise UserError(
            f"{where} is of the role `{side}`, and a conversation has only {listed(ROLES)}",
            "leave such turns out, or write them into a turn of the user's",
        )
    return Turn(ROLES[side.lower()], words(_join_parts(message, content, where=where), content, where=where))


def _join_parts(message: TableRow, field: str, *, where: str) -> TableRow:
    """``message`` with the text of ``field`` joined, if it is a list of parts."""
    parts = message.get(field)
    if not isinstance(parts, list):
        return message
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            of = f"a part of kind `{part.get('type')}`" if isinstance(part, dict) else kind(part)
            raise UserError(f"{where} has {of}, and only text is read", "leave such records out")
    return {**message, field: "".join(part["text"] for part in parts)}


def words(row: TableRow, field: str, *, where: str) -> str:
    """The unchanged text in ``field``. Raises UserError where it is no text."""
    value = _value(row, field, where=where)
    if not isinstance(value, str):
        raise UserError(
            f"`{field}` in {where} is {kind(value)}, not a string", "write it as text, or leave it out"
        )
    if not value.strip():
        raise UserError(f"`{field}` in {where} is empty", "fill it in, or leave the record out")
    if "\0" in value:
        raise UserError(
            f"`{field}` in {where} holds a NUL, character {value.index(chr(0)) + 1}",
            "no text has one: take it out, or convert the file to UTF-8 anew",
        )
    try:
        value.encode()
    except UnicodeEncodeError as err:  # a JSON escape may be half of a surrogate pair, which is no character
        raise UserError(
            f"`{field}` in {where} is not valid Unicode: lone surrogate at character {err.start + 1}",
            "write the text as UTF-8, unescaped",
        ) from err
    return value


def _value(row: TableRow, field: str, *, where: str) -> object:
    if field not in row:
        raise UserError(
            f"{where} has no field `{field}`; it has {listed(row) or 'none'}",
            "every record needs the fields of the first",
        )
    return row[field]


def kind(value: object) -> str:
    """The kind of ``value``, in words for a message."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def listed(items: Iterable[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)
