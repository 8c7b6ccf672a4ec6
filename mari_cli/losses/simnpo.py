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

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


@register
@dataclass(kw_only=True)
class SimNPOConfig(HeldLossConfig):
    kind: str = "simnpo"
    beta: float = 2.5
    """Inverse temperature: small is close to gradient ascent, large stops early."""
    gamma: float = 0.0
    """Margin of the reward, in nats: the larger γ, the longer an answer's probability is pushed down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("loss", self, "beta")
        non_negative("loss", self, "gamma")

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import beside_retain, sequence_mean
        from mari_cli.losses.readings import LogP

        log_p = LogP("forget")
        of_answer = partial(simnpo, beta=self.beta, gamma=self.gamma)

        def forget(step: "Step", readings: "Readings") -> "tuple[Tensor, Terms]":
            value = sequence_mean(step, readings, of_answer, length_normalised=True)
            return value, {"simnpo": value}

        return beside_retain(self, forget, [log_p], nonlinear=(log_p,))


def simnpo(log_p_S: "Tensor", *, beta: float, gamma: float) -> "Tensor":
    """The paper's loss, [S], unreduced: -(2/β) log σ(-β log p / |y| - γ). ``log_p_S``: log p / |y| of each
    answer y with |y| tokens, in nats."""
    from torch.nn.functional import logsigmoid

    return -(2 / beta) * logsigmoid(-beta * log_p_S - gamma)
