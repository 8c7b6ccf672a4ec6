"""SHA-256 of values, files and folders, which depends only on their content."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def content_hash(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON: the order of keys does not matter, the order of lists does."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_hash(path: Path) -> str:
    """The hash by which git knows a file's content: SHA-1 over its size and its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def directory_hash(path: Path) -> str:
    """SHA-256 of the names (relative, sorted) and contents of all files below ``path``."""
    names = sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*") if entry.is_file())
    return content_hash([[name, file_hash(path / name)] for name in names])


def path_hash(path: Path) -> str:
    """SHA-256 of a file or of a directory with its content; a missing ``path`` has a hash, too."""
    if path.is_dir():
        return directory_hash(path)
    return file_hash(path) if path.is_file() else content_hash(None)


def key_hash(key: Mapping[str, Any]) -> str:
    """The hash of a cache key, 24 hexadecimal digits, for the name of a file or directory."""
    return content_hash(key)[:24]
