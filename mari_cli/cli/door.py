"""Where every error leaves: what the user can fix as `error:` and `hint:`, the rest as Python tells it."""

import errno
import os
import select
import shlex
import signal
import sys
import threading
import time
from typing import Any

import typer
from typer.core import TyperGroup

from mari_cli.errors import UserError
from mari_cli.storage.layout import RUN, SWEEP
from mari_cli.tasks.worker import check_processes, hush

PATIENCE = 5
"""Seconds that others of several processes leave the first to tell an error."""
LONGEST = 2000
"""Characters of a line of an error; what is longer is a value that somebody pasted."""
OF_THE_SYSTEM = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENAMETOOLONG", "ELOOP", "ENOTDIR"),
        *("EISDIR", "EMFILE", "ENFILE", "EIO", "ESTALE", "EBUSY", "ENXIO", "ENOMEM"),
    )
)
"""What the system refuses for a reason that lies with its user: names, permissions, room."""


def note(message: str) -> None:
    """A line for the person watching; results go to stdout instead."""
    typer.echo(message, err=True)


def refuse(message: str, hint: str | None) -> None:
    """Two lines, whatever is in ``message`` and ``hint``."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)  # once the first is gone the launcher ends the others, and it is told only once
    note(f"error: {one_line(message) or 'something went wrong that has no name'}")
    note(f"  hint: {one_line(hint or '') or '`mari COMMAND --help` shows how it is called'}")


def one_line(text: str) -> str:
    """``text`` as one line that no terminal reads as anything but text: a value may hold what it likes."""
    text = "".join(
        letter if letter.isprintable() else " " if letter.isspace() else ascii(letter)[1:-1]
        for letter in text
    )
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def interrupt(number: int, frame: Any) -> None:
    """SIGTERM is Ctrl-C: what is going on is ended in order."""
    raise KeyboardInterrupt


class Door(TyperGroup):
    """The group of all commands."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Exit codes: 2 what the user can fix, 130 interrupted, 1 what only we can (with a traceback)."""
        hush()
        # of several processes the first alone has something to say
        if threading.current_thread() is threading.main_thread() and os.environ.get("RANK", "0") == "0":
            signal.signal(signal.SIGTERM, interrupt)
        try:
            _check_streams()
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            refuse(str(error), error.hint)
            raise SystemExit(2) from None
        except typer.TyperException as error:  # a word on the command line that typer does not know
            message, _, guess = error.format_message().replace("'", "`").partition(" Did you mean ")
            message = message[:1].lower() + message[1:].rstrip(".").replace("Value error, ", "")
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "mari"
            refuse(message, f"did you mean {guess}" if guess else f"`{command} --help` lists what it takes")
            raise SystemExit(2) from None
        except OSError as error:
            if error.errno not in OF_THE_SYSTEM:
                raise
            refuse(*_of_the_system(error))
            _leave_quietly()
            raise SystemExit(2) from None
        except MemoryError:
            refuse(
                "not enough memory on this machine",
                "`mari plan` says what a run needs, and what makes it fit",
            )
            raise SystemExit(2) from None
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C, or a scheduler's SIGTERM, is caught here, before typer makes a bare exit code of it; and a
        reader who has left."""
        _check_words(sys.argv[1:])
        _check_directory()
        check_processes()
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as interrupted:
            task, out = getattr(interrupted, "task", None), getattr(interrupted, "out", None)
            resumable = out is not None and any((out / name).is_file() for name in (RUN, SWEEP))
            goes_on = f"; `mari {task} --resume {shlex.quote(str(out))}` goes on" if resumable else ""
            if os.environ.get("RANK", "0") == "0":
                note(f"interrupted{goes_on}")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `mari … | head -1`: who has read enough is told nothing
            code = 1 if _left(sys.stderr) else 0
            _leave_quietly()
            raise typer.Exit(code) from None


# -- before a command ----------------------------------------------------------------------------------------


def _check_streams() -> None:
    """Refuse a closed stdout. A stream that is closed gives its number to the next file that is opened, which
    would then get what somebody prints."""
    closed = [stream for stream in ("stdin", "stdout", "stderr") if getattr(sys, stream) is None]
    if not closed:
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):  # letters that a terminal does not have
                reconfigure(errors="backslashreplace")
        return
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    if "stderr" in closed:
        sys.stderr = open(2, "w")  # noqa: SIM115 (as long as the process lives)
    if "stdout" in closed:
        sys.stdout = open(1, "w")  # noqa: SIM115
        raise UserError("stdout is closed, and results go there", "`> /dev/null` where nobody reads them")


def _check_words(words: list[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            told = word.encode(errors="surrogateescape").decode(errors="replace")
            raise UserError(f"`{told}` is not UTF-8", "rename what has this name, in UTF-8") from None


def _check_directory() -> None:
    try:
        os.getcwd()
    except OSError:
        raise UserError("the directory that this shell is in is gone", "`cd` to one that is there") from None


# -- what the system refuses ---------------------------------------------------------------------------------


def _of_the_system(error: OSError) -> tuple[str, str]:
    reason = (error.strerror or str(error)).lower()
    if error.filename is None:
        return f"the system refuses to write or read: {reason}", "free some space, or write somewhere else"
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return f"cannot use `{name}`: {reason}", "mend it, or choose another place: `out=`, `cache=`, or the path"


def _left(stream: Any) -> bool:
    """Whether nobody reads what is written to ``stream``."""
    try:
        waiting = select.poll()
        waiting.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in waiting.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _leave_quietly() -> None:
    """What stdout still holds is given up, or Python would try again on its way out, and tell of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return
