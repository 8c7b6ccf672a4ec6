"""Paths of a configuration on this machine. Standard library only.

`~` and paths that begin with `~/` are in the home directory; every other path, as `~t.jsonl`, is unchanged.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mari_cli.errors import UserError

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""The limits, in bytes, of the usual file systems."""


def place(path: str | Path) -> Path:
    """``path`` with the home directory in place of `~`."""
    text = str(path)
    home = text == "~" or text.startswith("~/")
    return Path(os.path.expanduser(text)) if home else Path(text)


def is_there(path: str | Path) -> bool:
    """Whether ``path`` exists. No error is raised for an impossible name."""
    return os.path.exists(place(path))


def in_order(name: str) -> str:
    """The key by which `job 9` comes before `job 10`: numbers in names are ordered by their value."""
    return re.sub(r"\d+", lambda digits: f"{int(digits[0]):020}", name)


def files_inside(folder: Path) -> Iterator[Path]:
    """The files in ``folder`` and below that are not hidden. Raises OSError for a folder that cannot be read:
    `Path.rglob` would leave it out."""

    def refuse(error: OSError) -> None:
        raise error

    for place_of, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place_of) / name for name in names if not name.startswith("."))


def longest_name(parts: Iterable[str]) -> int:
    """The number of bytes of the longest name in a path."""
    return max((len(os.fsencode(part)) for part in parts), default=0)


def check_length(key: str, path: str) -> None:
    """Raise UserError for a ``path``, the value of ``key``, that is too long for a file system."""
    longest = longest_name(path.split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        what, most = ("name in it", LONGEST_NAME) if longest > LONGEST_NAME else ("path", LONGEST_PATH)
        raise UserError(
            f"`{key}` is too long: a {what} has at most {most} bytes, got {path[:40]}…", f"shorten `{key}`"
        )


def benchmark_folder(root: str) -> Path:
    """The folder of the key `metrics.benchmark_root`. Raises UserError where there is none."""
    folder = place(root).absolute()
    if not folder.is_dir():
        raise UserError(
            f"no such folder: `metrics.benchmark_root={root}`",
            "it holds a folder for each data set, named as on the hub: `cais/mmlu`",
        )
    return folder
