"""SimNPO: negative preference optimisation without a reference.

C. Fan et al. 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
https://arxiv.org/abs/2410.07163. The code of the authors and of OpenUnlearning also multiplies the margin by
β, so its margin is γ/β. Their code averages over the sequences of a micro-batch, the loss here over those of
the step. Shapes: S = sequences of the step.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, register
from mari_cli.sections import non_negative, positive

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective


@register
@dataclass(kw_only=True)
class SimNPOConfig(HeldLossConfig):
    kind: str = "simnpo"
    beta: float = positive(2.5)
    """Inverse temperature: small is close to gradient ascent, large stops early."""
    gamma: float = non_negative(0.0)
    """Margin of the reward, in nats: the larger γ, the longer an answer's probability is pushed down."""

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import sequences_beside_retain

        formula = partial(simnpo, beta=self.beta, gamma=self.gamma)
        return sequences_beside_retain(self, "simnpo", formula, length_normalised=True)


def simnpo(log_p_S: "Tensor", *, beta: float, gamma: float) -> "Tensor":
    """The paper's loss, [S], unreduced: -(2/β) log σ(-β log p / |y| - γ). ``log_p_S``: log p / |y| of each
    answer y with |y| tokens, in nats."""
    from torch.nn.functional import logsigmoid

    return -(2 / beta) * logsigmoid(-beta * log_p_S - gamma)
