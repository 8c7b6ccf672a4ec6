"""Atomic writes: after a crash at any moment there is the whole old file or the whole new one."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mari_cli.errors import UserError, reason_of

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, a used quota and a file size limit."""
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers where a directory is in the place of the file, or writing is not permitted."""


class CannotWrite(UserError):
    """A file cannot be written. The old file, if there is one, is unchanged."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        full = error.errno in FULL
        hint = "free some space" if full else "move it out of the way, or make it writable"
        super().__init__(f"cannot write `{path}`: {reason_of(error)}", hint)


@contextmanager
def retold_disk_errors(path: Path) -> Iterator[None]:
    """Raise CannotWrite for a full disk. Other OSErrors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise CannotWrite(path, error) from error


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``. At any moment a reader finds the whole old file or the whole new one."""
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
    """Write ``text`` in UTF-8 with ``atomic_write_bytes``."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a directory to fill, which becomes ``path`` when the block ends, or is removed after an error.
    Raises FileExistsError, or OSError, where ``path`` exists already or appears meanwhile."""
    if os.path.lexists(path):
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
            os.rename(scratch, path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    _sync(path.parent)


def recover(directory: Path) -> None:
    """Clean up after killed writes in ``directory``. No other process may write there meanwhile."""
    for scratch in directory.glob(".tmp-*"):
        remove(scratch)


def remove(path: Path) -> None:
    """Remove a file, or a directory with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _scratch(path: Path) -> Path:
    """A new name beside ``path``, because a rename must stay on one file system."""
    return path.with_name(f".tmp-{secrets.token_hex(6)}")


def _sync(path: Path) -> None:
    """Make the disk store a file, or the names in a directory, now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
