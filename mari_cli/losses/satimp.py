"""SatImp: gradient ascent on tokens that are not yet forgotten, and of which the model is not certain.

P. Yang et al. 2025, "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning",
https://arxiv.org/abs/2505.11953: a weight for saturation, p^β1, times a weight for importance, (1 - p)^β2.
The mean is over the tokens of the step; OpenUnlearning's code averages over those of each micro-batch, and
keeps a copy of the model before step 1 that the loss does not read. Shapes: N positions.
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
class SatImpConfig(HeldLossConfig):
    kind: str = "satimp"
    beta1: float = non_negative(5.0)
    """Saturation: the larger β1, the less an improbable token counts."""
    beta2: float = non_negative(1.0)
    """Importance: the larger β2, the less a token counts of which the model is certain."""

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import mean_beside_retain
        from mari_cli.losses.readings import LogP

        def formula(log_p_N: "Tensor") -> "Tensor":
            return satimp(log_p_N, beta1=self.beta1, beta2=self.beta2)

        return mean_beside_retain(self, "satimp", LogP("forget"), formula)


def satimp(log_p_N: "Tensor", *, beta1: float, beta2: float) -> "Tensor":
    """The paper's loss, [N], unreduced: p^β1 (1 - p)^β2 log p, in nats. The weights carry no gradient."""
    fixed_N = log_p_N.detach()
    return (beta1 * fixed_N).exp() * (-fixed_N.expm1()).clamp_min(0) ** beta2 * log_p_N
