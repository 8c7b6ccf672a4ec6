"""The state from which a killed run goes on as if it had never stopped: safetensors and JSON, written whole.

The run can go on in any number of processes. With dropout another number of processes draws other masks,
because each process has its own random numbers.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mari_cli import distributed
from mari_cli.errors import UserError
from mari_cli.progress import say
from mari_cli.storage import atomic, room_on_disk
from mari_cli.train import checkpoint
from mari_cli.train.optim import Optimizer

MODEL, OPTIMIZER, PROGRESS = "model", "optimizer", "progress.json"
"""A state: the directories of the weights and of what steps them; and all that is not tensors, with a
checksum of each file."""
BLOCK = 2**24
"""Bytes of a file that one read takes."""


@dataclass
class Progress:
    """The part of a training state that is not tensors."""

    step: int = 0
    """Optimiser steps done."""
    tokens: int = 0
    """Tokens the backbone has seen, prompts included, padding not."""
    kept_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """The evaluations so far."""
    stopped_by: str | None = None
    loss_scaling: dict[str, Any] | None = None
    """The state of the scaler of a float16 training: the scale, and how many steps in a row it has held."""
    skipped_steps: int = 0
    """Steps so far whose update was skipped, because their gradient is not finite in float16."""
    weights: str = ""
    """Hash of the weights before the first step, without adapters."""
    retain_weight: float | None = None
    """Weight of the retain term in the next step, where the weight changes during training."""


def save(directory: Path, optimizer: Optimizer, progress: Progress) -> None:
    """Write the state of ``progress.step`` beside the last one, then drop what no later resume can need.

    It holds what is trained, in float32 as it is stepped. The newest whole `step_*` directory is the state.
    Weights worth keeping: the kept step's and the newest.
    """
    name = f"step_{progress.step:08d}"
    size = 3 * sum(master.numel() * master.element_size() for master in optimizer.masters.values())
    if distributed.is_rank_zero():
        room_on_disk.check_disk(directory.parent, size)
        directory.mkdir(parents=True, exist_ok=True)
    with checkpoint.directory_of_all(directory / name) as temporary:
        checkpoint.write(temporary / MODEL, optimizer.masters)
        checkpoint.write(temporary / OPTIMIZER, optimizer.tensors() | _random_state())
        distributed.barrier()
        if distributed.is_rank_zero():
            content = {"progress": vars(progress), "files": _checksums(temporary)}
            (temporary / PROGRESS).write_text(json.dumps({"sha256": _seal(content), **content}))
    if not distributed.is_rank_zero():
        return
    for other in directory.glob("step_*"):
        if other.name == name:
            continue
        if other.name == f"step_{progress.kept_step:08d}":
            shutil.rmtree(other / OPTIMIZER, ignore_errors=True)
        else:
            atomic.remove(other)


def find(directory: Path, weights: str) -> Path | None:
    """The state under ``directory`` from which a training of ``weights`` goes on; None where there is none
    yet. Raises UserError where the state began with other weights, or where no state is whole."""
    path = latest(directory)
    if path and load_progress(path).weights != weights:
        raise UserError(
            f"the state in `{directory}` was trained from other weights than those here now",
            "put back the model that the training began with, or start a new run with another `out=`",
        )
    return path


def latest(directory: Path) -> Path | None:
    """The newest state under ``directory`` that is whole, with every file as it was written; None where there
    is no state. Raises UserError where there are some and none of them is whole."""
    found = sorted(directory.glob("step_*"), reverse=True)
    for path in found:
        if (path / OPTIMIZER).is_dir() and _is_whole(path):
            return path
    if found or (os.path.lexists(directory) and not directory.is_dir()):
        raise UserError(
            f"cannot go on: the state in `{directory}` is damaged",
            "restore its files, or take it away: the training then begins anew",
        )
    return None


def drop_damaged(path: Path) -> None:
    """Remove all that is newer than the state in ``path``, from which a training goes on."""
    for other in path.parent.glob("step_*"):
        if other.name > path.name:
            say(f"the state in `{other}` is damaged: going on from the one before, `{path.name}`")
            atomic.remove(other)


def _is_whole(path: Path) -> bool:
    """Whether all that a training needs to go on from the state in ``path`` is as it was written, the weights
    of the kept step among it."""
    content = _content(path)
    if content is None or content["files"] != _checksums(path):
        return False
    kept = path.with_name(f"step_{content['progress']['kept_step']:08d}")
    if kept == path:
        return True
    before = _content(kept)
    return before is not None and _of_model(before["files"]) == _of_model(_checksums(kept))


def _of_model(files: Mapping[str, Any]) -> dict[str, Any]:
    return {name: checksum for name, checksum in files.items() if name.startswith(f"{MODEL}/")}


def _content(path: Path) -> dict[str, Any] | None:
    """The part of a state that is not tensors; None where the file has changed since it was written."""
    try:
        content = json.loads((path / PROGRESS).read_bytes())
        seal = content.pop("sha256")
        Progress(**content["progress"])  # raises where another version of mari wrote it
        return content if seal == _seal(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _seal(content: dict[str, Any]) -> str:
    """SHA-256 of ``content``, in which numbers may be NaN or infinite, as those of the history."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checksums(path: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of each file of tensors in a state, by its name there."""
    files = sorted(file for part in (MODEL, OPTIMIZER) for file in (path / part).rglob("*") if file.is_file())
    with ThreadPoolExecutor() as pool:
        checksums = list(pool.map(_checksum, files))
    return {file.relative_to(path).as_posix(): found for file, found in zip(files, checksums, strict=True)}


def _checksum(file: Path) -> list[int]:
    crc = 0
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return [file.stat().st_size, crc]


def load_progress(path: Path) -> Progress:
    content = _content(path)
    assert content is not None, f"{path} is not whole"
    return Progress(**content["progress"])


def load_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Restore the optimiser's moments and the random state."""

    def room(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """An empty place for a moment: in shards where its weight is in shards."""
        master = optimizer.masters.get(name.rpartition("/")[0])
        if isinstance(master, DTensor) and master.shape == size:
            return torch.zeros_like(master, dtype=dtype)
        return torch.empty(size, dtype=dtype)

    tensors = checkpoint.read(path / OPTIMIZER, room)
    _set_random_state(tensors)
    optimizer.load_tensors({name: t for name, t in tensors.items() if not name.startswith("random/")})


def _random_state() -> dict[str, Tensor]:
    states = {f"random/{distributed.rank()}/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"random/{distributed.rank()}/cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Restore the random state of this process. A process that is new keeps the state of its seed."""
    if (cpu := tensors.get(f"random/{distributed.rank()}/cpu")) is not None:
        torch.set_rng_state(cpu)
    cuda = tensors.get(f"random/{distributed.rank()}/cuda")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


@torch.no_grad()
def load_weights(path: Path, optimizer: Optimizer) -> None:
    masters = optimizer.masters
    read = checkpoint.read(path / MODEL, lambda name, size, dtype: masters[name])
    assert read.keys() == masters.keys()
    optimizer.publish()
