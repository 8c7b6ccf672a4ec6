"""Models without weights: tensors that have a shape, a type and a device, and no content.

The modes of torch are not entered while such a model runs: an operator that meets a fake tensor is faked,
and what is decided from real data, on the CPU, stays real.
"""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

M = TypeVar("M", bound=torch.nn.Module)


def mode() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def empty(shape: Iterable[int], dtype: torch.dtype, world: FakeTensorMode) -> Tensor:
    with world:
        return torch.empty(tuple(shape), dtype=dtype)


def twin(model: M, world: FakeTensorMode) -> M:
    """``model`` with fake tensors on a CPU in the place of its own, wherever those are (`meta` included)."""
    fakes: dict[int, object] = {}
    with world:
        for tensor in [*model.parameters(), *model.buffers()]:
            if id(tensor) in fakes:
                continue
            fake = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            fakes[id(tensor)] = (
                torch.nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
            )
    return copy.deepcopy(model, fakes)  # which finds them in its memo, and copies no weight
