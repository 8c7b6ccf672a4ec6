"""JSON kept for later runs, with the hash of its content: what was damaged is made anew, never believed.

All processes call `read` and `write` together, and all get what the first reads and writes. What was just
kept is read back at once, so that a first run sees what a later one will.
"""

import json
from pathlib import Path
from typing import Any

from mari_cli import distributed
from mari_cli.progress import say
from mari_cli.storage.hashing import content_hash
from mari_cli.storage.json_files import atomic_write_json, finite


def read(path: Path) -> Any:
    """What was kept at ``path``; None where nothing was, or where it is no longer what was written."""
    return distributed.broadcast(read_here(path) if distributed.is_rank_zero() else None)


def write(path: Path, value: Any) -> Any:
    """Keep ``value``, which is not None, and return what ``read`` will."""
    if distributed.is_rank_zero():
        value = finite(value)
        atomic_write_json(path, {"sha256": content_hash(value), "content": value})
    return read(path)


def read_here(path: Path) -> Any:
    """`read` for this process alone."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["sha256"] == content_hash(kept["content"]):
            return kept["content"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # no JSON, no text, or another one
        pass
    say(f"`{path}` in the cache is damaged and is made anew")
    return None
