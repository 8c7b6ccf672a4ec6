"""Checks, before a run begins, that the disk can hold the files that the run will write."""

import os
import shutil
from itertools import chain, count
from pathlib import Path

from mari_cli.errors import UserError, size
from mari_cli.places import LONGEST_NAME, longest_name


def check_disk(path: Path, needed_bytes: int) -> None:
    """Raise UserError where the disk of ``path``, which need not exist, has too little free space."""
    there = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise UserError(
            f"not enough disk space: `{path}` needs {size(needed_bytes)}, {size(free)} free",
            "free some space, or choose another disk with `out=` and `cache=`",
        )


def free_name(path: Path) -> Path:
    """``path``, or where that is taken the first free one of `NAME-2.html`, `NAME-3.html` …"""
    others = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(name for name in chain([path], others) if not os.path.lexists(name))


def require_writable(path: Path, key: str) -> None:
    """Raise UserError where the file ``path``, the value of ``key``, exists already or cannot be made."""
    try:
        if os.path.lexists(path):
            what = "is a directory" if path.is_dir() else "exists already"
            raise UserError(f"report `{path}` {what}", f"choose another file with `{key}`")
        longest = longest_name(path.absolute().parts)
        there = next(parent for parent in path.absolute().parents if parent.exists())
        if longest <= LONGEST_NAME and there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return
        reason = (
            "a name in it is too long"
            if longest > LONGEST_NAME
            else f"`{there}` is no directory"
            if not there.is_dir()
            else f"nothing may be written in `{there}`"
        )
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
    raise UserError(f"cannot write `{path}`: {reason}", f"choose another file with `{key}`")
