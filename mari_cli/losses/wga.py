"""WGA: gradient ascent weighted by the model's own probability of each token.

Q. Wang et al. 2025, "Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond",
https://arxiv.org/abs/2502.19301. The mean is over the tokens of the step; the code of the authors and of
OpenUnlearning averages over the tokens of each micro-batch. Shapes: N positions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, register
from mari_cli.sections import non_negative

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective


@register
@dataclass(kw_only=True)
class WGAConfig(HeldLossConfig):
    kind: str = "wga"
    beta: float = non_negative(1.0)
    """Power of the weight p^β. 0 is gradient ascent; the larger β, the less an improbable token counts."""

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import mean_beside_retain
        from mari_cli.losses.readings import LogP

        return mean_beside_retain(self, "wga", LogP("forget"), lambda log_p_N: wga(log_p_N, beta=self.beta))


def wga(log_p_N: "Tensor", *, beta: float) -> "Tensor":
    """The paper's loss, [N], unreduced: p^β log p, in nats. The weight p^β carries no gradient."""
    return (beta * log_p_N.detach()).exp() * log_p_N
