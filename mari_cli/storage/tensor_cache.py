"""Tensors too large for memory: computed once into memory-mapped files, and found again by their key.

A directory, named by the hash of the key, holds one raw file for each tensor (no usual format can be written
in place, row by row) and `meta.json` with the key and with shape, dtype and SHA-256 of each tensor. The
directory appears when it is whole, and a later run checks every byte before use.
"""

import json
import math
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.storage import atomic
from mari_cli.storage.cache_entry import find_or_make
from mari_cli.storage.hashing import file_hash, key_hash
from mari_cli.storage.room_on_disk import check_disk

META = "meta.json"


@dataclass(frozen=True)
class TensorSpec:
    """The shape and the type of one tensor on disk."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def cache_tensors(
    root: Path,
    key: Mapping[str, Any],
    wanted: Mapping[str, TensorSpec],
    fill: Callable[[Mapping[str, Tensor]], None],
    *,
    name: str,
) -> dict[str, Tensor]:
    """The tensors ``wanted``, memory-mapped from the directory of ``key`` below ``root``. If they are not
    there, ``fill`` gets empty tensors and fills them. ``key`` holds everything that determines the tensors.

    Rank 0 checks the directory. Changes of the returned tensors are not written to disk.
    """

    def make(path: Path) -> None:
        if not distributed.is_rank_zero():
            return
        check_disk(root, sum(tensor.bytes for tensor in wanted.values()))
        with atomic.atomic_directory(path) as scratch:
            fill({part: _allocate(scratch / f"{part}.bin", tensor) for part, tensor in wanted.items()})
            atomic.atomic_write_bytes(scratch / META, _seal(scratch, key, wanted))

    path = root / key_hash(key) / "tensors"
    find_or_make(path, name=name, is_whole=lambda there: _is_whole(there, key, wanted), make=make)
    return {part: _mapped(path / f"{part}.bin", tensor) for part, tensor in wanted.items()}


def temporary_tensor(directory: Path | None, tensor: TensorSpec) -> Tensor:
    """An empty tensor in its own file in ``directory`` (None: the system's folder for temporary files). The
    file has no name, so the system removes it with the tensor or at the end of the process."""
    where = directory or Path(tempfile.gettempdir())
    where.mkdir(parents=True, exist_ok=True)
    check_disk(where, tensor.bytes)
    path = where / f".scratch-{secrets.token_hex(8)}"
    with atomic.retold_disk_errors(where):
        try:
            return _allocate(path, tensor)
        finally:
            path.unlink(missing_ok=True)


def _seal(directory: Path, key: Mapping[str, Any], wanted: Mapping[str, TensorSpec]) -> bytes:
    """The content of `meta.json` for the files in ``directory``."""
    tensors = {
        part: {
            "shape": tensor.shape,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": file_hash(directory / f"{part}.bin"),
        }
        for part, tensor in wanted.items()
    }
    return (json.dumps({"key": key, "tensors": tensors}, indent=1) + "\n").encode()


def _is_whole(directory: Path, key: Mapping[str, Any], wanted: Mapping[str, TensorSpec]) -> bool:
    try:
        return (directory / META).read_bytes() == _seal(directory, key, wanted)
    except (FileNotFoundError, IsADirectoryError):
        return False


def _allocate(path: Path, tensor: TensorSpec) -> Tensor:
    """A tensor in a new memory-mapped file."""
    with path.open("xb") as file:
        if tensor.bytes:
            # on a full disk a write to mapped memory kills the process, so reserve the space first
            os.posix_fallocate(file.fileno(), 0, tensor.bytes)
    return _mapped(path, tensor, shared=True)


def _mapped(path: Path, tensor: TensorSpec, *, shared: bool = False) -> Tensor:
    if not tensor.bytes:  # nothing to map
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    flat = torch.from_file(str(path), shared=shared, size=math.prod(tensor.shape), dtype=tensor.dtype)
    return flat.view(tensor.shape)
