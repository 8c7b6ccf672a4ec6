"""Task vector: fine-tune further on the forget data, then move the weights in the opposite direction.

G. Ilharco et al. 2022, "Editing Models with Task Arithmetic", https://arxiv.org/abs/2212.04089, section 3: θ
= θ_before - α (θ_tuned - θ_before), θ_tuned fine-tuned on the forget data. The steps of a run are those of
the fine-tuning; the model that is evaluated and saved has θ. No step reads the retain data. MUSE's code has
the same formula.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import LossConfig, register
from mari_cli.sections import non_negative, positive, require

if TYPE_CHECKING:
    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


@register
@dataclass(kw_only=True)
class TaskVectorConfig(LossConfig):
    kind: str = "task_vector"
    retain_weight: float = non_negative(0.0)
    alpha: float = positive(1.0)
    """α: how far the weights move in the opposite direction, as a multiple of the change by fine-tuning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.retain_weight == 0,
            f"loss.retain_weight must be 0, got {self.retain_weight}: a task vector holds no retain side",
        )

    @property
    def negation(self) -> float:
        return self.alpha

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import Needs, Objective, mean_nll
        from mari_cli.losses.readings import LogP

        def terms(step: "Step", readings: "Readings") -> "Terms":
            return {"loss": mean_nll("forget", step, readings)}

        return Objective(terms, Needs((LogP("forget"),)))
