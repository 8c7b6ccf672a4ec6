"""JSON kept for later runs, with the hash of its content: what was damaged is made anew, never believed.

All processes call these together, and all get what the first reads and writes. What was just kept is read
back at once, so that a first run sees what a later one will.
"""

import json
from pathlib import Path
from typing import Any

from mari_cli import distributed, runs
from mari_cli.progress import say


def read(path: Path) -> Any:
    """What was kept at ``path``; None where nothing was, or where it is no longer what was written."""
    return distributed.agreed(_content(path) if distributed.first() else None)


def write(path: Path, value: Any) -> Any:
    """Keep ``value``, which is not None, and return what ``read`` will."""
    if distributed.first():
        value = runs.finite(value)
        runs.atomic_write_json(path, {"sha256": runs.content_hash(value), "content": value})
    return read(path)


def _content(path: Path) -> Any:
    try:
        sealed = json.loads(path.read_bytes())
        if sealed["sha256"] == runs.content_hash(sealed["content"]):
            return sealed["content"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # no JSON, no text, or another one
        pass
    say(f"`{path}` in the cache is damaged and is made anew")
    return None
