"""A directory in the cache that takes long to make: locked while it is made, and checked before use."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from mari_cli import distributed
from mari_cli.progress import say
from mari_cli.storage.atomic import recover, remove


def find_or_make(
    path: Path, *, name: str, is_whole: Callable[[Path], bool], make: Callable[[Path], None]
) -> None:
    """Call ``make`` for the directory ``path``, unless ``path`` exists and ``is_whole`` accepts it.

    The parent of ``path`` holds the lock, so that two runs that need the same directory make it once. All
    processes of a run call this function together: rank 0 calls ``is_whole``, and all call ``make``. ``name``
    is for messages.
    """
    directory = path.parent
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "lock") if distributed.is_rank_zero() else nullcontext():
        if not distributed.broadcast(distributed.is_rank_zero() and _find(path, name, is_whole)):
            make(path)
        distributed.barrier()


def _find(path: Path, name: str, is_whole: Callable[[Path], bool]) -> bool:
    """Whether ``path`` is whole. Leftovers of a killed run and a damaged ``path`` are removed."""
    recover(path.parent)
    if not path.exists():
        return False
    if path.is_dir() and is_whole(path):
        say(f"{name}: from the cache ({path.parent})")
        return True
    say(f"{name}: the cache in `{path.parent}` is damaged and is made anew")
    remove(path)
    return False
