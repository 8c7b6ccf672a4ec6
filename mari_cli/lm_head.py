"""The language-model head: logits in float32, and gradients through the head, chunk by chunk.

Shapes: N positions, D hidden size, V vocabulary.
"""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from mari_cli.errors import UserError


def _widen(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _product(a: Tensor, b: Tensor, *, widens: bool) -> Tensor:
    """a @ b, accumulated and returned in float32 or wider, for operands of any type."""
    wide = _widen(a.dtype)
    if a.dtype == wide:
        return a @ b
    return torch.mm(a, b, out_dtype=wide) if widens else a.to(wide) @ b.to(wide)


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale · (h Wᵀ + b)).

    The operands have ``dtype`` (None: their own type, at least float32). The logits are in float32 or wider,
    because rounding logits to 16 bits changes the gradient by 3 %.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    dtype: torch.dtype | None = None
    widens: bool | None = None
    """Whether a product of 16-bit operands can return float32 without a cast; None: only on CUDA."""
    gradient_at: Tensor | None = None
    """The tensor [V, D], in float32, that gets the gradient of the weight; None: the weight itself."""

    @property
    def mixed(self) -> bool:
        return self.weight_VD.is_cuda if self.widens is None else self.widens

    def __call__(self, h_ND: Tensor) -> Tensor:
        """Logits [N, V], differentiable. The graph holds at most three tensors of N x V."""
        dtype = self.dtype or torch.promote_types(_widen(h_ND.dtype), self.weight_VD.dtype)
        with torch.autocast(h_ND.device.type, enabled=False):
            operands = h_ND.to(dtype), self.weight_VD.to(dtype).T
            differentiable = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
            # torch has no derivative of a product that returns a wider type
            z_NV = _product(*operands, widens=self.mixed and not differentiable)
        if self.bias_V is not None:
            z_NV = z_NV + self.bias_V.to(z_NV.dtype)
        if self.scale != 1.0:
            z_NV = z_NV * self.scale
        return z_NV if self.softcap is None else self.softcap * torch.tanh(z_NV / self.softcap)

    def frozen(self) -> "Head":
        """A copy, in the type of the operands, that training does not change; the head itself if it is not
        trained."""
        if not (self.weight_VD.requires_grad or (self.bias_V is not None and self.bias_V.requires_grad)):
            return self
        bias_V = None if self.bias_V is None else self.bias_V.detach().clone()
        weight_VD = self.weight_VD.detach()
        cast_VD = weight_VD if self.dtype is None else weight_VD.to(self.dtype)
        weight_VD = cast_VD.clone() if cast_VD is weight_VD else cast_VD
        return replace(self, weight_VD=weight_VD, bias_V=bias_V, gradient_at=None)


@dataclass
class HeadGradient:
    """Gradients through a head, accumulated over chunks of positions in float32 or wider."""

    head: Head
    operand_VD: Tensor = field(init=False)
    weight_VD: Tensor | None = field(init=False)
    bias_V: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        weight_VD, bias_V = self.head.weight_VD, self.head.bias_V
        # cast once, instead of once for each chunk
        self.operand_VD = weight_VD.detach().to(self.head.dtype or _widen(weight_VD.dtype))
        if not self.head.mixed:
            # a product on a CPU returns the type of its operands
            self.operand_VD = self.operand_VD.to(_widen(self.operand_VD.dtype))
        wide = _widen(weight_VD.dtype)
        self.weight_VD = torch.zeros_like(weight_VD, dtype=wide) if weight_VD.requires_grad else None
        self.bias_V = None
        if bias_V is not None and bias_V.requires_grad:
            self.bias_V = torch.zeros_like(bias_V, dtype=wide)

    @property
    def wide(self) -> torch.dtype:
        """The type of the logits."""
        return _widen(self.operand_VD.dtype)

    def operands(self, h_ND: Tensor) -> Tensor:
        return h_ND.to(self.head.dtype or _widen(h_ND.dtype)).to(self.operand_VD.dtype)

    def logits(self, h_ND: Tensor) -> Tensor:
        """Logits [N, V] as of `Head`, computed in place in one tensor."""
        z_NV = _product(self.operands(h_ND), self.operand_VD.T, widens=self.head.mixed)
        if self.head.bias_V is not None:
            z_NV += self.head.bias_V.detach()
        if self.head.scale != 1.0:
            z_NV *= self.head.scale
        if self.head.softcap is not None:
            z_NV.div_(self.head.softcap).tanh_().mul_(self.head.softcap)
        return z_NV

    def slope(self, z_NV: Tensor) -> Tensor | None:
        """Derivative of the soft-capping at the capped logits ``z_NV``; None without soft-capping."""
        return None if self.head.softcap is None else 1 - (z_NV / self.head.softcap).square_()

    def push(self, delta_NV: Tensor, h_ND: Tensor, slope_NV: Tensor | None) -> Tensor:
        """Add the gradient of the head, and return the gradient [N, D] of the hidden states in their type.

        ``delta_NV`` is the gradient of the logits, and is overwritten.
        """
        if slope_NV is not None:
            delta_NV *= slope_NV
        if self.head.scale != 1.0:
            delta_NV *= self.head.scale
        if self.bias_V is not None:
            self.bias_V += delta_NV.sum(0)
        operand_NV = delta_NV.to(self.operand_VD.dtype)
        if self.weight_VD is not None:
            operand_ND = self.operands(h_ND)
            # in place, because otherwise each chunk would need another tensor as large as the weight
            if operand_NV.dtype == self.weight_VD.dtype:
                self.weight_VD.addmm_(operand_NV.T, operand_ND)
            else:
                wide_VD = self.weight_VD
                torch.addmm(wide_VD, operand_NV.T, operand_ND, out_dtype=wide_VD.dtype, out=wide_VD)
        return _product(operand_NV, self.operand_VD, widens=self.head.mixed).to(h_ND.dtype)


# -- the head of a model -------------------------------------------------------------------------------------


def head_of(model: Any, dtype: torch.dtype | None = None, *, widens: bool | None = None) -> Head:
    """The head of a causal language model, with the scale or the cap of logits of some architectures.

    ``dtype`` is the type of the operands, if it is narrower than the weights; ``widens`` is as in `Head`. All
    processes together gather a head in shards, and its gradient is summed over the processes in float32 and
    returned to the shards. Raises UserError for a model without a head.
    """
    linear = model.get_output_embeddings()
    if linear is None:
        raise UserError(f"`{type(model).__name__}` has no language-model head", "use a causal language model")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    bias = getattr(linear, "bias", None)
    weight, gradient_at = linear.weight, getattr(linear.weight, "gradient_at", None)
    if isinstance(weight, DTensor) and dtype not in (None, weight.dtype):
        trained = weight.requires_grad
        gradient_at = _GradientToShards.apply(weight) if trained else None  # type: ignore[no-untyped-call]
        with torch.no_grad():
            weight = _gather(weight.to(dtype)).requires_grad_(trained)
    return Head(
        _gather(weight), None if bias is None else _gather(bias), scale, softcap, dtype, widens, gradient_at
    )


def backbone_of(model: Any) -> nn.Module:
    """The module of ``model`` before its head. Raises UserError where ``model`` has no such module."""
    if model.base_model is not model:
        return cast(nn.Module, model.base_model)
    embedding = model.get_input_embeddings()
    # in some models the backbone has another name than `base_model_prefix` says
    parts = [part for part in model.children() if part is not embedding and embedding in part.modules()]
    if len(parts) != 1:
        raise UserError(
            f"`{type(model).__name__}` has no backbone apart from its head",
            "this architecture is not supported yet",
        )
    found: nn.Module = parts[0]
    return found


@torch.no_grad()
def check_parity(model: Any) -> None:
    """Raise UserError where logits are not head(backbone(tokens)): every loss and metric needs that. Dropout
    draws the same masks for both."""
    head, device = head_of(model), next(model.parameters()).device
    config = model.config.get_text_config()
    length = min(8, getattr(config, "max_position_embeddings", None) or 8)
    input_ids_BT = torch.arange(length, device=device).remainder(config.vocab_size).unsqueeze(0)
    outputs = []
    for part in (backbone_of(model), model):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # both draw from one state
            outputs.append(part(input_ids=input_ids_BT, use_cache=False))
    ours, theirs = head(outputs[0].last_hidden_state), outputs[1].logits
    if not theirs.isfinite().all():
        raise UserError(
            f"the logits of `{type(model).__name__}` are NaN or infinite, though its weights are not",
            "its weights are too large: take an earlier step of its training",
        )
    gap = (ours - theirs).abs().max().item()
    if not gap <= max(1e-3, 4 * torch.finfo(theirs.dtype).eps) * max(1.0, theirs.abs().max().item()):
        raise UserError(
            f"the logits of `{type(model).__name__}` are not its head applied to its last hidden state "
            f"(gap {gap:.3g})",
            "this architecture is not supported yet",
        )


def _gather(parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.full_tensor(grad_placements=[Partial("sum")])


class _GradientToShards(torch.autograd.Function):
    """A tensor without memory, with the shape and type of a whole weight, whose gradient goes to the shards
    of the weight. A gradient of the 16-bit copy of the weight would be rounded before the sum."""

    @staticmethod
    def forward(ctx: Any, parameter: DTensor) -> Tensor:
        ctx.mesh, ctx.placements = parameter.device_mesh, parameter.placements
        return parameter.to_local().new_zeros(()).expand(parameter.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> DTensor:
        of_process = DTensor.from_local(gradient, ctx.mesh, [Partial("sum")], run_check=False)
        return of_process.redistribute(placements=ctx.placements)
