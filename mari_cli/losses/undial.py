"""UNDIAL: self-distillation from the model's own logits, of which the true token's logit is lowered.

Y. Dong et al. 2024, "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language
Models", https://arxiv.org/abs/2402.10052. Here the mean is over the targets. The authors and OpenUnlearning
also average over prompts and padding, where OpenUnlearning lowers the logit of another token.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register
from mari_cli.sections import positive

if TYPE_CHECKING:
    from mari_cli.losses.objective import Objective


@register
@dataclass(kw_only=True)
class UndialConfig(HeldLossConfig):
    """The mean over the forget positions of the cross-entropy of the model's predictions to softmax(z -
    strength · onehot(true token)), with z the logits of the model before step 1."""

    kind: str = "undial"
    strength: float = positive(10.0)
    """The amount by which the true token's logit is lowered."""
    retain_loss: RetainLoss = RetainLoss.none

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import mean_beside_retain
        from mari_cli.losses.readings import TargetCrossEntropy

        distilled = TargetCrossEntropy("forget", lowered=self.strength)
        return mean_beside_retain(self, "distillation", distilled)
