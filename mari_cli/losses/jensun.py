"""JensUn: Jensen-Shannon divergence to a refusal on forget data, to the model before step 1 on retain data.

N. D. Singh et al. 2025, "Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible
Forgetting in LLMs", https://arxiv.org/abs/2509.02820. The target at each token of a forget answer is one
token of the refusal, whose tokens are repeated. With p the probability of that token, the divergence is

    log 2 + (p log p - (1 + p) log(1 + p)) / 2,    at most log 2.

The authors' code clamps probabilities at 1e-9 before it takes logarithms, the loss here does not; their code
averages over the tokens of a micro-batch, the loss here over the tokens of the step. Shapes: N positions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register
from mari_cli.sections import require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective


@register
@dataclass(kw_only=True)
class JensUnConfig(HeldLossConfig):
    kind: str = "jensun"
    refusal: str = " No idea"
    """The text whose tokens replace the tokens of each forget answer as targets."""
    retain_loss: RetainLoss = RetainLoss.jensen_shannon

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.refusal.strip()), "loss.refusal must not be empty")

    @property
    def wanted_tokens(self) -> str:
        return self.refusal

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import mean_beside_retain
        from mari_cli.losses.readings import LogP

        return mean_beside_retain(self, "jensun", LogP("alternative"), jensen_shannon_to_token)


def jensen_shannon_to_token(log_p_N: "Tensor") -> "Tensor":
    """[N], unreduced, in nats: divergence of the prediction from certainty of a token with ``log_p_N``."""
    import math

    p_N = log_p_N.exp()
    return math.log(2) + (p_N * log_p_N - (1 + p_N) * p_N.log1p()) / 2
