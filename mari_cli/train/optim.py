"""The optimiser: AdamW, its learning rate, and its state.

The optimiser steps float32, whatever dtype the model's weights have. A bfloat16 number has 8 significant
bits: an update of 1e-5 on a weight of size 1 would round to nothing, at every step. So with bfloat16 weights
the optimiser owns float32 copies, the *masters*; the model computes with their rounding.
"""

import importlib.util
import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mari_cli.config import OptimConfig, OptimizerName, Schedule, Weights
from mari_cli.errors import UserError


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up to ``config.lr``; then constant, or linear or half a cosine down to 0 at ``steps``."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    match config.schedule:
        case Schedule.constant:
            return config.lr
        case Schedule.linear:
            return config.lr * (1 - done)
        case Schedule.cosine:
            return config.lr * (1 + math.cos(math.pi * done)) / 2


def adamw(parameters: list[torch.nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only, not on biases, norms and their like.

    In 8 bits it is torchao's (after T. Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization",
    https://arxiv.org/abs/2110.02861): both moments of a tensor in blocks of 256 with one scale each, where it
    has at least 4096 entries and a multiple of 256; in float32 where not. It runs eagerly on a CPU, and is
    compiled on CUDA, once for each shape of a weight, in the first step.
    """
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    if config.optimizer is OptimizerName.adamw_8bit:
        from torchao.optim import AdamW8bit

        eight_bit: torch.optim.Optimizer = AdamW8bit(
            [group for group in groups if group["params"]], lr=config.lr
        )
        return eight_bit
    return torch.optim.AdamW(groups, lr=config.lr, fused=any(p.is_cuda for p in parameters))


def check_optimizer(name: OptimizerName, *, section: str = "train.") -> None:
    """Refuse an optimiser whose package is not installed."""
    if name is OptimizerName.adamw_8bit and importlib.util.find_spec("torchao") is None:
        raise UserError(
            f"{section}optimizer=adamw_8bit needs torchao, which is not installed",
            "`pip install 'mari-cli[8bit]'`, or `adamw`",
        )


class Optimizer:
    """Steps the trained weights of ``model``. From now on ``model`` has its weights as ``config`` says."""

    def __init__(self, model: torch.nn.Module, config: OptimConfig) -> None:
        self.model = model
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        """The weights that the model computes with, by name."""
        self.masters = self.weights
        """The float32 tensors that are stepped, by name."""
        if config.weights is Weights.bfloat16:
            self.masters = {
                name: torch.nn.Parameter(p.detach().to(torch.float32, copy=True))
                for name, p in self.weights.items()
            }
            for parameter in model.parameters():  # not buffers: positional encodings need float32
                parameter.data = parameter.data.to(torch.bfloat16)
        self.engine = adamw(list(self.masters.values()), config)

    def set_lr(self, lr: float) -> None:
        for group in self.engine.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def take_gradients(self) -> None:
        """Move the accumulated gradients from the weights to the masters, which are clipped and stepped."""
        if self.masters is self.weights:
            return
        for name, weight in self.weights.items():
            gradient, weight.grad = weight.grad, None  # so that a gradient exists in one dtype at a time
            self.masters[name].grad = None if gradient is None else gradient.float()

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the gradient to ``max_norm`` and return its norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), max_norm if max_norm else math.inf)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, *, skip: Tensor) -> None:
        """Step, unless ``skip``, a tensor of one truth value, is true.

        On CUDA the fused AdamW reads ``skip`` on the device, and the CPU does not wait: torch's GradScaler
        tells fused optimisers in this way that a gradient is not finite.
        """
        if self.engine.defaults.get("fused"):
            self.engine.grad_scale, self.engine.found_inf = None, skip.float()  # type: ignore[attr-defined]
            self.engine.step()
            del self.engine.grad_scale, self.engine.found_inf  # type: ignore[attr-defined]
        elif not skip:
            with self._compiled_on_cuda():
                self.engine.step()
        self.publish()

    def _compiled_on_cuda(self) -> AbstractContextManager[object]:
        """Steps without torchao's compilation, which takes half a minute on a CPU and gains nothing there."""
        if any(master.is_cuda for master in self.masters.values()):
            return nullcontext()
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return eager

    def zero_grad(self) -> None:
        self.engine.zero_grad(set_to_none=True)

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the stepped masters into the model's weights."""
        if self.masters is not self.weights:
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])

    def release(self) -> None:
        """Give the model its float32 weights back: the trained ones are the masters, to the last bit.

        These weights are measured and saved. Matrix products in bfloat16 round them to the weights with which
        the model was trained and watched.
        """
        if self.masters is self.weights:
            return
        for name, weight in self.weights.items():
            weight.data = self.masters[name].data
        for parameter in self.model.parameters():
            parameter.data = parameter.data.float()

    # -- its state, as flat tensors --------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The moments, as `PARAMETER/MOMENT`; of a moment in 8 bits its parts, as `PARAMETER/MOMENT/PART`."""
        flat: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            for key, value in self.engine.state.get(master, {}).items():
                if hasattr(value, "codes"):
                    parts, _ = value.__tensor_flatten__()
                    flat |= {f"{name}/{key}/{part}": getattr(value, part) for part in parts}
                else:
                    flat[f"{name}/{key}"] = value
        return flat

    def load_tensors(self, flat: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        fused = bool(self.engine.defaults.get("fused"))
        for name, master in self.masters.items():
            prefix = f"{name}/"
            found = {key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)}
            # the moments live with the weights, the step count too where it is fused, else on the CPU
            found = {
                key: value if key == "step" and not fused else value.to(master.device)
                for key, value in found.items()
            }
            whole = {key: value for key, value in found.items() if "/" not in key}
            for key in dict.fromkeys(key.partition("/")[0] for key in found if "/" in key):
                whole[key] = self._eight_bit(key, found, master.dtype)
            self.engine.state[master] = whole

    @staticmethod
    def _eight_bit(key: str, parts: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        from torchao.optim.subclass_8bit import OptimState8bit

        signed = key == "exp_avg"  # the other moment is a mean of squares
        codes, scale, qmap = (parts[f"{key}/{part}"] for part in ("codes", "scale", "qmap"))
        moment: Tensor = OptimState8bit(codes, scale, qmap, signed, dtype)
        return moment
