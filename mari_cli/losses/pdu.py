"""PDU: flat logits on forget data, under an upper bound on the retain loss.

T. Entesari et al. 2025, "Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models",
https://arxiv.org/abs/2506.05314: minimise the mean of (max z - mean z)² over the forget positions, z the
logits, subject to retain loss <= ε. The weight λ of the retain loss is the dual variable: after each step λ
<- max(0, λ + η (retain loss - ε)). The retain loss is that of the whole step, so λ does not depend on how the
step is split. OpenUnlearning changes λ after each micro-batch, adds -λε to the value, which has no gradient,
and reads the logits at the targets; the loss here reads the logits that predict the targets.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register
from mari_cli.sections import non_negative, require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective, Terms


@register
@dataclass(kw_only=True)
class PDUConfig(HeldLossConfig):
    kind: str = "pdu"
    retain_weight: float = non_negative(100.0)
    """λ before the first step."""
    retain_limit: float = non_negative(0.3)
    """ε, in the unit of the retain loss, somewhat above that before step 1; the paper's for TOFU."""
    dual_rate: float = non_negative(5.0)
    """η, the rate at which λ follows the retain loss."""
    warmup_steps: int = non_negative(0)
    """Steps in which λ does not change; half of all steps in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.retain_loss is not RetainLoss.none,
            "loss.retain_loss=none leaves nothing to limit; loss=pdu needs a retain loss",
        )

    def objective(self) -> "Objective":
        from dataclasses import replace

        import torch

        from mari_cli.losses.objective import RetainWeight, mean_beside_retain
        from mari_cli.losses.readings import LogitMargin

        def after(weight: "Tensor", terms: "Terms", done: int) -> "Tensor":
            retain = terms[f"retain_{self.retain_loss.value}"]
            if done < self.warmup_steps:
                return weight
            return dual_step(weight, retain.to(weight), limit=self.retain_limit, rate=self.dual_rate)

        objective = mean_beside_retain(self, "logit_margin", LogitMargin("forget"), torch.square)
        return replace(objective, retain_weight=RetainWeight(self.retain_weight, after))


def dual_step(weight: "Tensor", retain: "Tensor", *, limit: float, rate: float) -> "Tensor":
    """λ after a step whose retain loss is ``retain``."""
    return (weight + rate * (retain - limit)).clamp_min(0)
