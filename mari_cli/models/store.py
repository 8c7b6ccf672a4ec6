"""Tensors too large for memory: computed once into files that are mapped, and found again by what they hold.

A directory under the content hash of its key holds one raw file a tensor (none of the usual formats can be
written in place, row by row) and `meta.json`: the key, and shape, dtype and SHA-256 of each. It appears when
it is whole, and every byte of it is checked before it is used again.
"""

import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from mari_cli import distributed, runs
from mari_cli.models.fingerprint import key_hash
from mari_cli.progress import say

META = "meta.json"


@dataclass(frozen=True)
class Stored:
    """Shape and type of one tensor on disk."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def stored(
    root: Path,
    key: Mapping[str, Any],
    wanted: Mapping[str, Stored],
    fill: Callable[[Mapping[str, Tensor]], None],
    *,
    name: str,
) -> dict[str, Tensor]:
    """The tensors ``wanted``, memory-mapped: from the directory of ``key`` under ``root`` if they are there,
    else written there by ``fill``, which gets them empty. ``key`` is all that determines them.

    Two runs that want the same wait for one of them; of several processes of a run the first looks and fills.
    What is changed in the result stays in this process.
    """
    directory = root / key_hash(key)
    directory.mkdir(parents=True, exist_ok=True)
    whole = directory / "tensors"
    if not distributed.first():
        distributed.wait()
        return {part: _mapped(whole / f"{part}.bin", tensor) for part, tensor in wanted.items()}
    with FileLock(directory / "lock"):
        runs.recover(directory)
        if _is_whole(whole, key, wanted):
            say(f"{name}: from the cache ({directory})")
        else:
            if whole.exists():
                say(f"{name}: the cache in `{directory}` is damaged and is made anew")
                shutil.rmtree(whole)
            runs.check_disk(root, sum(tensor.bytes for tensor in wanted.values()))
            with runs.atomic_directory(whole) as scratch:
                fill({part: _created(scratch / f"{part}.bin", tensor) for part, tensor in wanted.items()})
                runs.atomic_write_bytes(scratch / META, _seal(scratch, key, wanted))
        distributed.wait()
        return {part: _mapped(whole / f"{part}.bin", tensor) for part, tensor in wanted.items()}


def scratch(directory: Path | None, tensor: Stored) -> Tensor:
    """An empty tensor in a file of its own in ``directory`` (None: where the system keeps temporary files),
    which no name leads to: it is gone with the tensor, or with the process, however that ends."""
    where = directory or Path(tempfile.gettempdir())
    where.mkdir(parents=True, exist_ok=True)
    runs.check_disk(where, tensor.bytes)
    path = where / f".scratch-{secrets.token_hex(8)}"
    with runs.retold_disk_errors(where):
        try:
            return _created(path, tensor)
        finally:
            path.unlink(missing_ok=True)


def _seal(directory: Path, key: Mapping[str, Any], wanted: Mapping[str, Stored]) -> bytes:
    """What `meta.json` says of the files as they are."""
    tensors = {
        part: {
            "shape": tensor.shape,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": runs.file_hash(directory / f"{part}.bin"),
        }
        for part, tensor in wanted.items()
    }
    return (json.dumps({"key": key, "tensors": tensors}, indent=1) + "\n").encode()


def _is_whole(directory: Path, key: Mapping[str, Any], wanted: Mapping[str, Stored]) -> bool:
    try:
        return (directory / META).read_bytes() == _seal(directory, key, wanted)
    except FileNotFoundError:
        return False


def _created(path: Path, tensor: Stored) -> Tensor:
    """A new file to be filled through memory."""
    with path.open("xb") as file:
        if tensor.bytes:
            # a write through memory kills the process where the disk is full: take the room beforehand
            os.posix_fallocate(file.fileno(), 0, tensor.bytes)
    return _mapped(path, tensor, shared=True)


def _mapped(path: Path, tensor: Stored, *, shared: bool = False) -> Tensor:
    if not tensor.bytes:  # nothing to map
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    flat = torch.from_file(str(path), shared=shared, size=math.prod(tensor.shape), dtype=tensor.dtype)
    return flat.view(tensor.shape)
