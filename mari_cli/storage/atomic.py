"""Writes that leave the old or the new, never a half: after a crash at any byte there is no third thing."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mari_cli.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, or quota, or file size limit."""
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
"""A directory, or a lock of the owner's, where a file should be."""


class CannotWrite(UserError):
    """The disk does not take what is written to it. Whatever was there before is untouched."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        full = error.errno in FULL
        hint = "free some space" if full else "move it out of the way, or make it writable"
        super().__init__(f"cannot write `{path}`: {(error.strerror or str(error)).lower()}", hint)


@contextmanager
def retold_disk_errors(path: Path) -> Iterator[None]:
    """Tell a full disk as the user's error; let any other OSError pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise CannotWrite(path, error) from error


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: a reader, or a crash at any moment, leaves the old file or the new."""
    with retold_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        try:
            with scratch.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException as error:
            scratch.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in IN_THE_WAY:
                raise CannotWrite(path, error) from error
            raise
    _sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """``atomic_write_bytes`` of UTF-8."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def atomic_directory(
    path: Path, *, exists: Literal["refuse", "replace", "keep"] = "refuse"
) -> Iterator[Path]:
    """A directory to fill: it appears as ``path`` once the block ends well, and leaves nothing otherwise.

    Where there is a ``path`` already: ``refuse`` raises FileExistsError, ``replace`` puts the new one in its
    place, ``keep`` drops the new one (for caches, where whoever was first has written the same). If killed
    between its two renames, ``replace`` leaves the old one as ``.old-NAME``, which ``recover`` puts back.
    """
    if exists == "refuse" and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(path)
    with retold_disk_errors(path):
        try:
            scratch.mkdir()
            yield scratch
            for entry in [*scratch.rglob("*"), scratch]:
                if not entry.is_symlink():
                    _sync(entry)
            _move_in(scratch, path, exists)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    _sync(path.parent)


def _move_in(scratch: Path, path: Path, exists: str) -> None:
    if exists == "replace" and path.exists():
        old = path.with_name(f".old-{path.name}")
        if old.exists():  # left by an earlier kill after the new one was in place
            shutil.rmtree(old)
        os.rename(path, old)
        os.rename(scratch, path)
        shutil.rmtree(old)
        return
    try:
        os.rename(scratch, path)
    except OSError as error:
        if exists != "keep" or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(scratch)


def recover(directory: Path) -> None:
    """Clean up what killed writes left in ``directory``. Only while nobody else writes there."""
    for old in directory.glob(".old-*"):
        path = old.with_name(old.name.removeprefix(".old-"))
        if path.exists():
            remove(old)
        else:
            os.rename(old, path)
    for scratch in directory.glob(".tmp-*"):
        remove(scratch)


def remove(path: Path) -> None:
    """Take away a file, or a directory with all in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _scratch(path: Path) -> Path:
    """A new name next to ``path``, so that the rename stays within one file system."""
    return path.with_name(f".tmp-{secrets.token_hex(6)}")


def _sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
