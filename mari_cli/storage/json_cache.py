"""JSON in the cache, stored with the hash of its content. A damaged value is computed again.

All processes call `read` and `write` together; rank 0 reads and writes, and all get its value. `write` reads
the value back, so that the first run uses the same value as a later run.
"""

import json
from pathlib import Path
from typing import Any

from mari_cli import distributed
from mari_cli.progress import say
from mari_cli.storage.hashing import content_hash
from mari_cli.storage.json_files import atomic_write_json, finite


def read(path: Path) -> Any:
    """The value at ``path``; None where there is no value, or where it is damaged."""
    return distributed.broadcast(read_here(path) if distributed.is_rank_zero() else None)


def write(path: Path, value: Any) -> Any:
    """Store ``value``, which must not be None, and return the value that ``read`` returns."""
    if distributed.is_rank_zero():
        value = finite(value)
        atomic_write_json(path, {"sha256": content_hash(value), "content": value})
    return read(path)


def read_here(path: Path) -> Any:
    """Read in this process only, without the other processes."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["sha256"] == content_hash(kept["content"]):
            return kept["content"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError):  # no JSON, or JSON of another shape
        pass
    say(f"`{path}` in the cache is damaged and is made anew")
    return None
