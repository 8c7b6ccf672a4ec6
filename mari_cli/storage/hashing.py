"""SHA-256 of values, files and folders, by their content alone."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def content_hash(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON: the order of keys does not matter, that of lists does."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def bytes_hash(content: bytes) -> str:
    """SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_hash(path: Path) -> str:
    """SHA-256 over the names (relative, sorted) and contents of every file below ``path``."""
    names = sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*") if entry.is_file())
    return content_hash([[name, file_hash(path / name)] for name in names])


def path_hash(path: Path) -> str:
    """Of a file, or of a directory with all in it; of what is not there, too."""
    if path.is_dir():
        return directory_hash(path)
    return file_hash(path) if path.is_file() else content_hash(None)


def key_hash(key: Mapping[str, Any]) -> str:
    """Of the key of a cache, as the name of a file or a directory: 24 hexadecimal digits."""
    return content_hash(key)[:24]
