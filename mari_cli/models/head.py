"""Where a model keeps the head that turns hidden states into logits, and whether that is all of it."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel

from mari_cli.errors import UserError
from mari_cli.lm_head import Head
from mari_cli.models.trunk import trunk


def head_of(model: PreTrainedModel, dtype: torch.dtype | None = None, *, widens: bool | None = None) -> Head:
    """The head of a causal language model, with what some architectures do to its logits: scale or cap.

    ``dtype`` is that of its operands, where it is narrower than the weights; ``widens`` as in `Head`. A head
    in shards is gathered, by all processes at once; a gradient at it goes back to the shards, summed over the
    processes in float32.
    """
    linear = model.get_output_embeddings()
    if linear is None:
        raise UserError(f"`{type(model).__name__}` has no language-model head", "use a causal language model")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    softcap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(linear, "bias", None)
    weight, gradient_at = linear.weight, getattr(linear.weight, "gradient_at", None)
    if isinstance(weight, DTensor) and dtype not in (None, weight.dtype):
        trained = weight.requires_grad
        gradient_at = _StandIn.apply(weight) if trained else None  # type: ignore[no-untyped-call]
        with torch.no_grad():
            weight = _whole(weight.to(dtype)).requires_grad_(trained)
    return Head(
        _whole(weight),
        None if bias is None else _whole(bias),
        scale,
        softcap,
        dtype,
        widens,
        gradient_at,
    )


def _whole(parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.full_tensor(grad_placements=[Partial("sum")])


class _StandIn(torch.autograd.Function):
    """A tensor with the whole shape of a weight in shards and its dtype, which takes no memory: a gradient at
    it goes to the shards. At the copy of the weight in 16 bits it would be rounded before it is summed."""

    @staticmethod
    def forward(ctx: Any, parameter: DTensor) -> Tensor:
        ctx.mesh, ctx.placements = parameter.device_mesh, parameter.placements
        return parameter.to_local().new_zeros(()).expand(parameter.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> DTensor:
        of_process = DTensor.from_local(gradient, ctx.mesh, [Partial("sum")], run_check=False)
        return of_process.redistribute(placements=ctx.placements)


@torch.no_grad()
def check_parity(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not head(trunk(tokens)): every loss and metric here rests on that."""
    config, device = model.config.get_text_config(), next(model.parameters()).device
    length = min(8, getattr(config, "max_position_embeddings", None) or 8)
    input_ids_BT = torch.arange(length, device=device).remainder(config.vocab_size).unsqueeze(0)
    ours = head_of(model)(trunk(model, input_ids_BT)[0])
    theirs = model(input_ids=input_ids_BT, use_cache=False).logits.float()
    if not theirs.isfinite().all():
        raise UserError(
            f"the logits of `{type(model).__name__}` are NaN or infinite, though its weights are not",
            "its weights are too large: take an earlier step of its training",
        )
    gap = (ours - theirs).abs().max().item()
    if not gap <= 1e-3 * max(1.0, theirs.abs().max().item()):
        raise UserError(
            f"the logits of `{type(model).__name__}` are not its head applied to its last hidden state "
            f"(gap {gap:.3g})",
            "this architecture is not supported yet",
        )
