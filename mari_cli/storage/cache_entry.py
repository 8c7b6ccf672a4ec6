"""An entry of the cache that takes long to make: locked while it is made, and checked before it is used."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from mari_cli import distributed
from mari_cli.progress import say
from mari_cli.storage.atomic import recover


def find_or_make(
    path: Path, *, name: str, is_whole: Callable[[Path], bool], make: Callable[[Path], None]
) -> None:
    """Make sure that the directory ``path`` is there and whole.

    ``path`` has a parent of its own, which holds the lock: two runs that want the same wait for one of them.
    All processes of a run call this together; ``is_whole`` is asked in the first, ``make`` is called in all.
    ``name`` is for messages.
    """
    directory = path.parent
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "lock") if distributed.is_rank_zero() else nullcontext():
        if not distributed.broadcast(distributed.is_rank_zero() and _find(path, name, is_whole)):
            make(path)
        distributed.barrier()


def _find(path: Path, name: str, is_whole: Callable[[Path], bool]) -> bool:
    """Whether ``path`` is whole. What a killed run left beside it is cleaned up; what is damaged goes."""
    recover(path.parent)
    if not path.exists():
        return False
    if is_whole(path):
        say(f"{name}: from the cache ({path.parent})")
        return True
    say(f"{name}: the cache in `{path.parent}` is damaged and is made anew")
    shutil.rmtree(path)
    return False
