"""The manifest of a finished run: the hashes of its files and facts about the run, which show later changes.

`manifest.json` is written just before `result.json`. It is canonical JSON with its own hash, which shows a
change of any byte. Everybody who can write in the directory can make a new manifest, but only the owner of
the key can make a new signature (storage/signature.py).
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from mari_cli.errors import UserError
from mari_cli.storage import signature
from mari_cli.storage.atomic import atomic_write_text
from mari_cli.storage.hashing import content_hash, file_hash
from mari_cli.storage.json_files import damaged, finite, json_text, read_object
from mari_cli.storage.layout import MANIFEST, SIGNATURE, STATE

SCHEMA_VERSION = 1
Types = type | tuple[type, ...]
NOT_COVERED = ("wandb",)
"""Folders of a run to which another program may write after the end of the run."""


def write_manifest(
    run: Path, about: Mapping[str, Any], pending: Mapping[str, str], key: Path | None = None
) -> dict[str, Any]:
    """Hash every file of ``run``, write and return the manifest with the facts ``about`` the run, and sign it
    with ``key``. ``pending``: the texts of files that are written after the manifest, by their names.
    """
    texts = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in pending.items()}
    left_out = {MANIFEST, SIGNATURE, *texts}
    there = {
        name: file_hash(run / name)
        for name in with_progress(files_of(run, {STATE, *NOT_COVERED}))
        if name not in left_out
    }
    content = finite(
        {
            "schema_version": SCHEMA_VERSION,
            **about,
            "files": dict(sorted((there | texts).items())),
            "not_covered": [name for name in NOT_COVERED if (run / name).exists()],
            "signature": SIGNATURE if key else None,
        }
    )
    manifest = {"sha256": content_hash(content), **content}
    atomic_write_text(run / MANIFEST, json_text(manifest))
    if key:
        signature.write_signature(run / MANIFEST, run / SIGNATURE, key)
    return manifest


def read_manifest(run: Path) -> dict[str, Any]:
    """The content of the manifest of ``run``. Raises UserError where there is no manifest, where its format
    belongs to another version of mari, and where a byte of it has changed."""
    path = run / MANIFEST
    if not os.path.lexists(path):
        raise UserError(
            f"`{run}` has no `{MANIFEST}`",
            "only a finished run has one, and versions of mari before manifests wrote none",
        )
    manifest = read_object(path)
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest.get("schema_version") != SCHEMA_VERSION and _holds_its_hash(manifest, content):
        raise UserError(
            f"`{path}` was written in format {manifest.get('schema_version')}, this mari reads format "
            f"{SCHEMA_VERSION}",
            "use the version of mari that wrote it",
        )
    if not _holds_its_hash(manifest, content) or path.read_bytes() != json_text(manifest).encode():
        raise damaged(path, "it is not as it was written")
    require_types(path, manifest, {"files": dict, "not_covered": list, "signature": (str, NoneType)})
    return manifest


def require_types(path: Path, manifest: Mapping[str, Any], types: Mapping[str, Types]) -> None:
    """Raise UserError where the manifest at ``path`` lacks a key of ``types`` or has another type there. A
    right hash is not enough, because everybody can compute a hash."""
    for key, wanted in types.items():
        if key not in manifest or not isinstance(manifest[key], wanted):
            raise damaged(path, f"its `{key}` is not what a run writes there")


def changes(run: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The change of each file of ``run`` that differs from ``manifest``, in words, by the file's name."""
    signed = {SIGNATURE} if manifest["signature"] else set()
    skipped = {STATE, *manifest["not_covered"]}
    there = {name for name in files_of(run, skipped) if name not in {MANIFEST, *signed}}
    found = {}
    for name in with_progress(sorted(there | set(manifest["files"]) | signed)):
        expected = manifest["files"].get(name)
        path = run / name
        if path.is_symlink():
            found[name] = "is a link, and a run leaves none"
        elif not path.is_file():
            found[name] = "is missing"
        elif name in signed:
            continue
        elif expected is None:
            found[name] = "was added after the end of the run"
        elif file_hash(path) != expected:
            found[name] = "has changed"
    return found


def files_of(run: Path, skipped: Collection[str]) -> list[str]:
    """Names of all files of ``run``, relative to ``run``, without the folders ``skipped``."""
    return sorted(_names(run, run, skipped))


def with_progress(names: Any) -> Iterator[str]:
    """``names`` of files with a progress bar, because hashing a large model takes long."""
    from mari_cli.progress import track

    listed = list(names)
    return track(listed, "hashing files", len(listed))


def _names(run: Path, directory: Path, skipped: Collection[str]) -> Iterator[str]:
    for entry in os.scandir(directory):
        name = Path(entry.path).relative_to(run).as_posix()
        if name in skipped:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _names(run, Path(entry.path), skipped)
        else:
            yield name


def _holds_its_hash(manifest: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    return bool(manifest.get("sha256") == content_hash(finite(content)))
