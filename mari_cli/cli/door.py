"""Where every error leaves: what the user can fix as `error:` and `hint:`, the rest as Python tells it."""

import os
import shlex
import signal
import threading
import time
from typing import Any

import typer
from typer.core import TyperGroup

from mari_cli.errors import UserError
from mari_cli.runs import RUN, SWEEP
from mari_cli.tasks.worker import hush

PATIENCE = 5
"""Seconds that others of several processes leave the first to tell an error."""


def note(message: str) -> None:
    """A line for the person watching; results go to stdout instead."""
    typer.echo(message, err=True)


def refuse(message: str, hint: str | None) -> None:
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)  # once the first is gone the launcher ends the others, and it is told only once
    note(f"error: {message}")
    if hint:
        note(f"  hint: {hint}")


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
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C, or a scheduler's SIGTERM, is caught here, before typer makes a bare exit code of it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupted:
            task, out = getattr(interrupted, "task", None), getattr(interrupted, "out", None)
            resumable = out is not None and any((out / name).is_file() for name in (RUN, SWEEP))
            goes_on = f"; `mari {task} --resume {shlex.quote(str(out))}` goes on" if resumable else ""
            if os.environ.get("RANK", "0") == "0":
                note(f"interrupted{goes_on}")
            raise typer.Exit(130) from None
