"""Errors that a user can fix, in one line plus a hint, and quantities in words. Standard library only, so
every module may import."""

import difflib
import math
import shlex
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix. The CLI prints `error: …` and `hint: …`, without a traceback, and exits
    with code 2. Message and hint are one line each, also if a name in them has a line break."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(one_line(message))
        self.hint = None if hint is None else one_line(hint)


def one_line(text: str) -> str:
    """``text`` with line breaks and other characters that are not printable as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def first_line(error: Exception) -> str:
    """The first line of what ``error`` says; where it says nothing, its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def reason_of(error: OSError) -> str:
    """What the system says of ``error``, as a part of a sentence."""
    return (error.strerror or str(error)).lower()


def shell_path(path: object) -> str:
    """``path`` as it can be pasted into a shell."""
    return shlex.quote(str(path))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 item`, `2 items`. ``plural`` is for nouns such as `3 people`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def size(count: float) -> str:
    """``count`` bytes in a suitable unit: `1.5 GiB`."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """``seconds`` in a suitable unit: `20 ms`, `7.2 s`, `45 s`, `2 min`, `2 h 05 min`."""
    if not math.isfinite(seconds):
        return "not finite"
    if 0 < seconds < 0.1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most similar to ``word``; None where no choice is similar."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1)), None)


def did_you_mean(
    word: str, choices: Iterable[str], otherwise: str | None = None, *, key: str = ""
) -> str | None:
    """A hint with the choice most similar to ``word`` after ``key``; ``otherwise`` where none is similar."""
    near = nearest(word, choices)
    return otherwise if near is None else f"did you mean `{key}{near}`?"
