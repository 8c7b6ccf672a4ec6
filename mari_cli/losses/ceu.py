"""CE-U: cross-entropy to the model's own prediction without the true token.

B. Yang 2025, "CE-U: Cross Entropy Unlearning", https://arxiv.org/abs/2503.01224. The target is q = softmax(z
with the true token's logit at -∞), without a gradient. With p the model's prediction, -Σ q log p = H(q) -
log(1 - p(true token)), and only the second part has a gradient. This second part, at least 0, is the loss
here: the unlikelihood of S. Welleck et al. 2019, https://arxiv.org/abs/1908.04319. OpenUnlearning's code has
the same gradient, and a value that is larger by H(q). The mean is over the tokens of the step. Shapes: N
positions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register
from mari_cli.sections import Flag, flag

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


@register
@dataclass(kw_only=True)
class CEUConfig(HeldLossConfig):
    kind: str = "ceu"
    skip_first: Flag = flag(True)
    """Leave out the first token of each answer (of each block of running text), after a footnote of the
    paper."""
    retain_loss: RetainLoss = RetainLoss.none

    def objective(self) -> "Objective":
        import torch

        from mari_cli.losses.objective import beside_retain
        from mari_cli.losses.readings import LogOdds
        from mari_cli.transfer import sent

        odds = LogOdds("forget")

        def forget(step: "Step", readings: "Readings") -> "tuple[Tensor, Terms]":
            value = torch.zeros(())
            if odds in readings:
                value_N, at = ceu(readings[odds]), step.positions["forget"]
                count = at.step_positions
                if self.skip_first:
                    value_N = value_N * sent(at.index_N > 0, value_N.device)
                    count = max(1, count - at.step_sequences)
                value = value_N.sum() / count
            return value, {"ceu": value}

        return beside_retain(self, forget, [odds], nonlinear=(odds,))


def ceu(log_odds_N: "Tensor") -> "Tensor":
    """-log(1 - p) of each true token [N], unreduced, in nats."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(-log_odds_N)
