"""A lock that the system releases when the process of its owner ends."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mari_cli.errors import UserError


@contextmanager
def hold(file: Path, what: str) -> Iterator[None]:
    """Lock ``file``, which messages call ``what`` ("run `x`"). Raises UserError where another process has the
    lock. The system releases the lock when the process ends, also after a crash. A file system without locks
    gives the lock to every process.
    """
    # a lock over a network needs a file that is open for writing; a read-only run needs no lock
    with file.open("rb+" if os.access(file, os.W_OK) else "rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{what} is running", "wait for its end, or stop it; a new one takes another `out=`"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield
