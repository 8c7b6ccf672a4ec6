"""A lock that ends with the process that holds it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mari_cli.errors import UserError


@contextmanager
def hold(file: Path, what: str) -> Iterator[None]:
    """Lock ``file``, whose owner is called ``what`` (as in "run `x`"); refused where another process has it.

    The lock is the system's: it ends with the process, however that ends, so that nothing stale can be left.
    A file system without locks lets everybody pass.
    """
    # over a network a lock takes a file that is open for writing; a run that is for reading needs none
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
