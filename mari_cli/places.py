"""What a path in a configuration means on this machine. Standard library only.

`~` and what begins with `~/` is in the home directory; every other name is taken as it is written, `~t.jsonl`
among them.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from mari_cli.errors import UserError

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes, on the file systems that are in use."""


def place(path: str | Path) -> Path:
    """``path`` with the home directory in it."""
    text = str(path)
    home = text == "~" or text.startswith("~/")
    return Path(os.path.expanduser(text)) if home else Path(text)


def is_there(path: str | Path) -> bool:
    """Whether ``path`` leads to something; no name is too strange to ask."""
    return os.path.exists(place(path))


def longest_name(parts: Iterable[str]) -> int:
    """Bytes of the longest of the names in a path."""
    return max((len(os.fsencode(part)) for part in parts), default=0)


def check_length(key: str, path: str) -> None:
    """Refuse what no file can be called; ``key`` is where it is configured."""
    longest = longest_name(path.split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        what, most = ("name in it", LONGEST_NAME) if longest > LONGEST_NAME else ("path", LONGEST_PATH)
        raise UserError(
            f"`{key}` is too long: a {what} has at most {most} bytes, got {path[:40]}…", f"shorten `{key}`"
        )
