"""What a killed run needs to go on as if nothing had happened: safetensors and JSON, replaced whole."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mari_cli import runs
from mari_cli.models.load import system_errors
from mari_cli.train.optim import Optimizer


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
    frozen: str | None = None
    """Hash of the weights that are not trained, and so are not in the state; None where all are."""


def save(directory: Path, optimizer: Optimizer, progress: Progress) -> None:
    """Write the state of ``progress.step`` beside the last one, then drop what no later resume can need.

    It holds what is trained, in float32 as it is stepped. The newest whole `step_*` directory is the state.
    Weights worth keeping: the kept step's and the newest.
    """
    name = f"step_{progress.step:08d}"
    weights = {key: master.detach().contiguous() for key, master in optimizer.masters.items()}
    size = 3 * sum(weight.numel() * weight.element_size() for weight in weights.values())
    runs.check_disk(directory.parent, size)
    directory.mkdir(parents=True, exist_ok=True)
    with runs.atomic_directory(directory / name) as temporary, system_errors():
        save_file(weights, temporary / "model.safetensors")
        tensors = optimizer.tensors()
        tensors["random/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random/cuda"] = torch.cuda.get_rng_state()
        save_file(tensors, temporary / "optimizer.safetensors")
        (temporary / "progress.json").write_text(json.dumps(vars(progress)))
    for other in directory.glob("step_*"):
        if other.name == name:
            continue
        if other.name == f"step_{progress.kept_step:08d}":
            (other / "optimizer.safetensors").unlink(missing_ok=True)
        else:
            shutil.rmtree(other)


def latest(directory: Path) -> Path | None:
    """The newest complete state under ``directory``."""
    complete = sorted(path.parent for path in directory.glob("step_*/optimizer.safetensors"))
    return complete[-1] if complete else None


def resumed_step(directory: Path) -> int:
    """The step that a resumed run goes on from; -1 where nothing was saved yet."""
    path = latest(directory)
    return load_progress(path).step if path else -1


def load_progress(path: Path) -> Progress:
    return Progress(**json.loads((path / "progress.json").read_text()))


def load_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Restore the optimiser's moments and the random state."""
    tensors = load_file(path / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop("random/cpu"))
    cuda = tensors.pop("random/cuda", None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    optimizer.load_tensors(tensors)


@torch.no_grad()
def load_weights(path: Path, optimizer: Optimizer) -> None:
    weights = load_file(path / "model.safetensors")
    assert weights.keys() == optimizer.masters.keys()
    for name, master in optimizer.masters.items():
        master.copy_(weights[name])
    optimizer.publish()
