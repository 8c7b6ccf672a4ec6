"""The gradient of the forget data, matrix by matrix, and what it takes off the gradients of the steps.

Shapes: a matrix is [A, B] and has K components.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import mul

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from mari_cli.config import OptimConfig
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.losses.base import GradientFilter
from mari_cli.losses.objective import Objective
from mari_cli.models.load import LanguageModel
from mari_cli.progress import track
from mari_cli.train.step import backward

MLP_NAMES = ("mlp", "feed_forward", "ffn", "fc1", "fc2")
"""Parts of the names of modules that hold the matrices of an MLP, in transformers' models."""


@dataclass(frozen=True)
class Components:
    """Of one matrix's gradient: left vectors [A, K], strengths [K] > 0, right ones [B, K]."""

    u_AK: Tensor
    s_K: Tensor
    v_BK: Tensor


def mlp_matrices(model: PreTrainedModel) -> dict[str, Parameter]:
    """The matrices of the MLPs of ``model`` by name. Raises UserError where none is found."""
    found = {
        name: p
        for name, p in model.named_parameters()
        if p.dim() == 2 and set(MLP_NAMES) & set(name.split("."))
    }
    if not found:
        raise UserError(
            f"`{type(model).__name__}` has no matrix whose name says that it is an MLP's",
            "loss=repselect needs such matrices; take another loss",
        )
    return found


def largest_components(gradient_AB: Tensor, count: int) -> Components:
    """At most ``count`` singular vectors of a gradient that is not 0; those with no strength beside the
    first, up to rounding, are left out. Computed in float32 or better."""
    wide_AB = gradient_AB.to(torch.promote_types(gradient_AB.dtype, torch.float32))
    u_AK, s_K, vh_KB = torch.linalg.svd(wide_AB, full_matrices=False)
    smallest = s_K[0] * max(gradient_AB.shape) * torch.finfo(s_K.dtype).eps
    kept = min(count, int((s_K > smallest).sum()))
    return Components(u_AK[:, :kept].clone(), s_K[:kept].clone(), vh_KB[:kept].T.clone())


def read_components(
    lm: LanguageModel,
    items: Sequence[Item],
    objective: Objective,
    config: OptimConfig,
    *,
    count: int,
    batch: int,
) -> dict[str, Components]:
    """The components of the gradient of ``objective`` over all forget ``items``, for each MLP matrix of
    ``lm``. A matrix whose gradient is 0 has no components.

    ``batch`` is the number of items that are read at a time; it changes rounding alone.
    """
    matrices = mlp_matrices(lm.model)
    whole = sum(item.num_targets for item in items)
    starts = range(0, len(items), batch)
    for start in track(starts, "components of the forget gradient", len(starts)):
        part = items[start : start + batch]
        share = sum(item.num_targets for item in part) / whole
        backward(
            lm,
            {"forget": part},
            objective,
            micro_batch=config.micro_batch,
            chunk=config.chunk,
            scale=partial(mul, share),
        )
    found = {
        name: largest_components(p.grad, count)
        for name, p in matrices.items()
        if p.grad is not None and p.grad.any()
    }
    lm.model.zero_grad(set_to_none=True)
    return found


def filter_with(
    chosen: GradientFilter, components: Mapping[str, Components]
) -> Callable[[Mapping[str, Parameter]], None]:
    """What changes the gradients of a step, by the names of their weights: a matrix without components has
    none."""

    def change(weights: Mapping[str, Parameter]) -> None:
        for name, p in weights.items():
            of = components.get(name)
            if of is None or p.grad is None:
                p.grad = None
            else:
                p.grad = chosen.apply(p.grad, of.u_AK, of.s_K, of.v_BK)

    return change
