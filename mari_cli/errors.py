"""Errors a user can fix, told in one line plus a hint. Standard library only, so anything may raise them."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix: the CLI prints `error: …` and `hint: …`, no traceback, and exits with 2.

    Each is one line, whatever a file or a name that it tells of holds.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(one_line(message))
        self.hint = None if hint is None else one_line(hint)


def one_line(text: str) -> str:
    """``text`` with line breaks, and whatever else has no shape, as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 item`, `2 items`; with ``plural``, one that is not made by an s: `3 people`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def size(count: float) -> str:
    """Bytes, in the unit that fits: `1.5 GiB`."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``word``, or None where nothing is close."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1)), None)
