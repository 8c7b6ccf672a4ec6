"""Messages and progress with the remaining time, on stderr: a bar on a terminal, else a line now and then.

Of several processes only rank 0 prints; a launcher sets RANK for each process.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mari_cli.errors import duration

T = TypeVar("T")
_console = Console(stderr=True, highlight=False)
SHORTEST = 1.0
"""Seconds that a loop runs before a line tells how long the rest will take."""
QUIET = (5.0, 60.0)
"""Least and most seconds between two lines of progress, where no terminal shows a bar."""


class Track(Protocol):
    """Yields items and shows how many are done."""

    def __call__(self, items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]: ...


class _Lines:
    """Progress where no terminal shows a bar. A line comes after `QUIET` seconds in which nothing was said;
    the longer the process has run, the longer that is. Short loops in a row count together."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.quiet = 0.0
        """Seconds that loops have run since the last line."""

    def track(self, items: Iterable[T], description: str, total: int, done: int) -> Iterator[T]:
        began = before = time.monotonic()
        for number, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            self.quiet += now - before
            before = now
            left = total - done - number
            quiet_for = min(QUIET[1], max(QUIET[0], (now - self.began) / 10))
            if left > 0 and now - began >= SHORTEST and self.quiet >= quiet_for:
                rest = duration((now - began) / number * left)
                say(f"{description}: {done + number} of {total}, eta {rest}")


_LINES = _Lines()


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    _LINES.quiet = 0.0
    if _speaks():
        _console.print(message, markup=False, soft_wrap=True)


def track(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
    """Yield ``items`` with a bar, or with lines where stderr is no terminal. ``done`` of ``total`` items were
    done before."""
    if not _speaks():
        yield from items
        return
    if not _console.is_terminal:
        yield from _LINES.track(items, description, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    # the present sys.stderr, so that the bar stays visible where other code redirects sys.stderr later
    console = Console(file=sys.stderr, highlight=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def silent(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
    """A `Track` for tests and for loops too short to watch."""
    yield from items
