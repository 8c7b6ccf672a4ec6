"""Messages and progress bars with the remaining time, on stderr.

Of several processes only rank 0 prints; a launcher sets RANK for each process.
"""

import os
import sys
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

T = TypeVar("T")
_console = Console(stderr=True, highlight=False)


class Track(Protocol):
    """Yields items and shows how many are done."""

    def __call__(self, items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]: ...


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    if _speaks():
        _console.print(message, markup=False, soft_wrap=True)


def track(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
    """Yield ``items`` with a bar, if stderr is a terminal. ``done`` of ``total`` items were done before."""
    if not (_speaks() and _console.is_terminal):
        yield from items
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
