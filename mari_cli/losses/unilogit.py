"""Unilogit: self-distillation to the model's own prediction, in which the true token has the probability 1/V.

S. Vasilev et al. 2025, "Unilogit: Robust Machine Unlearning for LLMs Using Uniform-Target Self-Distillation",
https://arxiv.org/abs/2505.06027: KL(p ‖ q), where q has 1/V at the true token and the proportions of p at the
others. So KL(p ‖ q) is a divergence over two outcomes, the true token or another token,

    p log(V p) + (1 - p) log((1 - p) V / (V - 1)),    p the true token's probability,

and the gradient is the same whether q carries a gradient or not. The authors' code is not public. The mean is
over the tokens of the step. V is the number of rows of the head, padding rows included.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register

if TYPE_CHECKING:
    from mari_cli.losses.objective import Objective


@register
@dataclass(kw_only=True)
class UnilogitConfig(HeldLossConfig):
    kind: str = "unilogit"
    retain_loss: RetainLoss = RetainLoss.kl

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import mean_beside_retain
        from mari_cli.losses.readings import UniformTarget

        return mean_beside_retain(self, "unilogit", UniformTarget("forget"))
