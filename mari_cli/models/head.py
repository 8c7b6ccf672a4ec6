"""The head that turns hidden states into logits.

Shapes: N positions, D hidden size, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mari_cli.errors import UserError
from mari_cli.models.trunk import trunk


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale · (h Wᵀ + b)), in float32 whatever the trunk's precision.

    Rounding logits to 16 bits costs 3 % of the gradient; the head is where precision must not be saved.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, h_ND: Tensor) -> Tensor:
        dtype = torch.promote_types(h_ND.dtype, torch.float32)
        with torch.autocast(h_ND.device.type, enabled=False):
            bias_V = None if self.bias_V is None else self.bias_V.to(dtype)
            z_NV = torch.nn.functional.linear(h_ND.to(dtype), self.weight_VD.to(dtype), bias_V)
        if self.scale != 1.0:
            z_NV = z_NV * self.scale
        return z_NV if self.softcap is None else self.softcap * torch.tanh(z_NV / self.softcap)

    def frozen(self) -> "Head":
        """A copy that training cannot move."""
        bias_V = None if self.bias_V is None else self.bias_V.detach().clone()
        return Head(self.weight_VD.detach().clone(), bias_V, self.scale, self.softcap)


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal language model, with what some architectures do to its logits: scale or cap."""
    linear = model.get_output_embeddings()
    if linear is None:
        raise UserError(f"`{type(model).__name__}` has no language-model head", "use a causal language model")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    return Head(
        linear.weight, getattr(linear, "bias", None), scale, getattr(config, "final_logit_softcapping", None)
    )


@torch.no_grad()
def check_parity(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not head(trunk(tokens)): every loss and metric here rests on that."""
    device = next(model.parameters()).device
    input_ids_BT = (
        torch.arange(8, device=device).remainder(model.config.get_text_config().vocab_size).unsqueeze(0)
    )
    ours = head_of(model)(trunk(model, input_ids_BT)[0])
    theirs = model(input_ids=input_ids_BT, use_cache=False).logits.float()
    gap = (ours - theirs).abs().max().item()
    if not gap <= 1e-3 * max(1.0, theirs.abs().max().item()):
        raise UserError(
            f"the logits of `{type(model).__name__}` are not its head applied to its last hidden state "
            f"(gap {gap:.3g})",
            "this architecture is not supported yet",
        )
