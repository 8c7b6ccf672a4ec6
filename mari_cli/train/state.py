"""What a killed run needs to go on as if nothing had happened: safetensors and JSON, replaced whole.

It goes on in any number of processes. With dropout another number draws other masks: each process has random
numbers of its own.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mari_cli import distributed, runs
from mari_cli.train import checkpoint
from mari_cli.train.optim import Optimizer

MODEL, OPTIMIZER = "model", "optimizer"
"""Directories of a state: weights, and what steps them."""


@dataclass
class Progress:
    """The part of a training state that is not tensors."""

    step: int = 0
    """Optimiser steps done."""
    tokens: int = 0
    """Tokens the trunk has seen, prompts included, padding not."""
    kept_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """The evaluations so far."""
    stopped_by: str | None = None
    loss_scale: float | None = None
    skipped_steps: int = 0
    """Of the steps done, those whose update was not made, because their gradient is not finite in float16."""
    frozen: str | None = None
    """Hash of the weights that are not trained, and so are not in the state; None where all are."""


def save(directory: Path, optimizer: Optimizer, progress: Progress) -> None:
    """Write the state of ``progress.step`` beside the last one, then drop what no later resume can need.

    It holds what is trained, in float32 as it is stepped. The newest whole `step_*` directory is the state.
    Weights worth keeping: the kept step's and the newest.
    """
    name = f"step_{progress.step:08d}"
    size = 3 * sum(master.numel() * master.element_size() for master in optimizer.masters.values())
    if distributed.first():
        runs.check_disk(directory.parent, size)
        directory.mkdir(parents=True, exist_ok=True)
    with checkpoint.directory_of_all(directory / name) as temporary:
        checkpoint.write(temporary / MODEL, optimizer.masters)
        checkpoint.write(temporary / OPTIMIZER, optimizer.tensors() | _random_state())
        if distributed.first():
            (temporary / "progress.json").write_text(json.dumps(vars(progress)))
    if not distributed.first():
        return
    for other in directory.glob("step_*"):
        if other.name == name:
            continue
        if other.name == f"step_{progress.kept_step:08d}":
            shutil.rmtree(other / OPTIMIZER, ignore_errors=True)
        else:
            shutil.rmtree(other)


def latest(directory: Path) -> Path | None:
    """The newest complete state under ``directory``."""
    complete = sorted(path.parent for path in directory.glob(f"step_*/{OPTIMIZER}"))
    return complete[-1] if complete else None


def resumed_step(directory: Path) -> int:
    """The step that a resumed run goes on from; -1 where nothing was saved yet."""
    path = latest(directory)
    return load_progress(path).step if path else -1


def load_progress(path: Path) -> Progress:
    return Progress(**json.loads((path / "progress.json").read_text()))


def load_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Restore the optimiser's moments and the random state."""

    def room(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """A moment of a weight in shards is in shards too."""
        master = optimizer.masters.get(name.rpartition("/")[0])
        if isinstance(master, DTensor) and master.shape == size:
            return torch.zeros_like(master, dtype=dtype)
        return torch.empty(size, dtype=dtype)

    tensors = checkpoint.read(path / OPTIMIZER, room)
    _set_random_state(tensors)
    optimizer.load_tensors({name: t for name, t in tensors.items() if not name.startswith("random/")})


def _random_state() -> dict[str, Tensor]:
    """Of this process."""
    states = {f"random/{distributed.rank()}/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"random/{distributed.rank()}/cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(tensors: Mapping[str, Tensor]) -> None:
    """A process that was not there before keeps what it was seeded with."""
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
