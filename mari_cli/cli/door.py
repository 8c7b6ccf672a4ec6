"""The place that prints every error: `error:` and `hint:` for the user, a traceback for a fault of mari."""

import errno
import os
import select
import signal
import sys
import threading
import time
from typing import Any

import typer
from typer.core import TyperGroup

from mari_cli.errors import UserError, reason_of, shell_path
from mari_cli.storage.layout import RUN, SWEEP
from mari_cli.tasks.worker import check_processes, hush

PATIENCE = 5
"""Seconds that the other processes wait, so that rank 0 can print an error first."""
LONGEST = 2000
"""Most characters of a line of an error: a longer line holds a value that somebody pasted, and is cut."""
OF_THE_SYSTEM = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENAMETOOLONG", "ELOOP", "ENOTDIR"),
        *("EISDIR", "EMFILE", "ENFILE", "EIO", "ESTALE", "EBUSY", "ENXIO", "ENOMEM"),
    )
)
"""Errors of the operating system that the user can fix: names, permissions, disk space."""


def note(message: str) -> None:
    """Print a line on stderr for the person who watches; results go to stdout."""
    typer.echo(message, err=True)


def refuse(message: str, hint: str | None) -> None:
    """Print `error:` and `hint:`, each as one line, whatever ``message`` and ``hint`` contain."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)  # when rank 0 has ended, the launcher ends the others: the error is printed once
    note(f"error: {one_line(message) or 'something went wrong that has no name'}")
    note(f"  hint: {one_line(hint or '') or '`mari COMMAND --help` shows how it is called'}")


def one_line(text: str) -> str:
    """``text`` as one line without control characters: a value in it may contain anything."""
    text = "".join(
        letter if letter.isprintable() else " " if letter.isspace() else ascii(letter)[1:-1]
        for letter in text
    )
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def interrupt(number: int, frame: Any) -> None:
    """Treat SIGTERM as Ctrl-C, so that a run ends in order."""
    raise KeyboardInterrupt


class Door(TyperGroup):
    """The group of all commands."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Exit codes: 2 the user can fix it, 130 interrupted, 1 a fault of mari (with a traceback)."""
        hush()
        # of several processes only rank 0 prints
        handles = threading.current_thread() is threading.main_thread() and os.environ.get("RANK", "0") == "0"
        if handles:
            signal.signal(signal.SIGTERM, interrupt)
        try:
            _check_streams()
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            refuse(str(error), error.hint)
            raise SystemExit(2) from None
        except typer.TyperException as error:  # typer does not know a word of the command line
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
        except KeyboardInterrupt:  # before a command began, or after it ended
            note("interrupted")
            raise SystemExit(130) from None
        finally:
            if handles:  # what is left to do is Python's own end, which nothing needs to interrupt in order
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Catch Ctrl-C and a scheduler's SIGTERM before typer turns them into an exit code without a message,
        and the error that a reader of stdout has closed the pipe."""
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
            goes_on = f"; `mari {task} --resume {shell_path(out)}` goes on" if resumable else ""
            if os.environ.get("RANK", "0") == "0":
                note(f"interrupted{goes_on}")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `mari … | head -1`: the reader has what it wanted, so this is no error
            code = 1 if _left(sys.stderr) else 0
            _leave_quietly()
            raise typer.Exit(code) from None


# -- before a command ----------------------------------------------------------------------------------------


def _check_streams() -> None:
    """Refuse a closed stdout. The next file that is opened would get the number of the closed stream, and
    printed text would go into that file."""
    closed = [stream for stream in ("stdin", "stdout", "stderr") if getattr(sys, stream) is None]
    if not closed:
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                # a letter that the terminal cannot show is printed as an escape
                reconfigure(errors="backslashreplace")
        return
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    if "stdin" in closed:
        sys.stdin = open(0)  # noqa: SIM115 (as long as the process lives)
    if "stderr" in closed:
        sys.stderr = open(2, "w")  # noqa: SIM115
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
    reason = reason_of(error)
    if error.filename is None:
        return f"the system refuses to write or read: {reason}", "free some space, or write somewhere else"
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return f"cannot use `{name}`: {reason}", "mend it, or choose another place: `out=`, `cache=`, or the path"


def _left(stream: Any) -> bool:
    """Whether the reader of ``stream`` has closed it."""
    try:
        waiting = select.poll()
        waiting.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in waiting.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _leave_quietly() -> None:
    """Drop what stdout still holds: Python would try to write it at exit, and print an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return
