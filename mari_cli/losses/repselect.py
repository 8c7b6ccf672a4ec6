"""RepSelect: ascent whose gradient is made smaller along directions that the forget data shares with other
data.

F. Sondej, Y. Yang, A. Mahdi 2026, "RepSelect: Robust LLM Unlearning via Representation Selectivity",
https://arxiv.org/abs/2606.17168. Before step 1 the gradient G [A, B] of the forget loss is taken for each
weight matrix of the MLPs, and G = U diag(s) Vᵀ. Every step's gradient is made smaller along the first K
columns of V, and along those of U. All other weights stay as they are, and there is no retain loss.
`collapse` equals `_collapse` of the authors' code (filyp/RepSelect, `repselect_simple.py`) on one matrix in
float64. That code tunes a LoRA on the forget data before it takes G, and subtracts that one filtered gradient
again and again. Here the model before step 1 already knows the forget data, each step's own gradient is
filtered, and the run's optimiser takes the step. The authors' singular vectors are approximate
(`svd_lowrank`), those here are exact. Where G has a lower rank than K their code gives NaN; here components
of strength 0 are left out. The vectors need K·(A + B) numbers of memory for each matrix, which the forecast
of memory does not count.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mari_cli.losses.base import GradientFilter, LossConfig, register
from mari_cli.sections import non_negative, positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


class Collapse(StrEnum):
    """The kept part of a component of strength s: `hard` 0, `soft` min(s)/s, `quadratic` (min(s)/s)²."""

    soft = "soft"
    hard = "hard"
    quadratic = "quadratic"


@register
@dataclass(kw_only=True)
class RepSelectConfig(LossConfig):
    kind: str = "repselect"
    retain_weight: float = non_negative(0.0)
    components: int = positive(512)
    """K: the number of singular vectors of each matrix."""
    collapse: Collapse = Collapse.soft

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.retain_weight == 0,
            f"loss.retain_weight must be 0, got {self.retain_weight}: RepSelect holds no retain side",
        )

    @property
    def gradient_filter(self) -> GradientFilter:
        return GradientFilter(self.components, lambda g, u, s, v: collapse(g, u, s, v, self.collapse))

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import Needs, Objective, mean_nll
        from mari_cli.losses.readings import LogP

        def terms(step: "Step", readings: "Readings") -> "Terms":
            nll = mean_nll("forget", step, readings)
            return {"loss": -nll, "forget_nll": nll}

        return Objective(terms, Needs((LogP("forget"),)))


def collapse(gradient_AB: "Tensor", u_AK: "Tensor", s_K: "Tensor", v_BK: "Tensor", how: Collapse) -> "Tensor":
    """``gradient_AB`` made smaller by ``how`` along ``u_AK`` and ``v_BK``, of strengths ``s_K`` > 0."""
    kept_K = {
        Collapse.soft: s_K.min() / s_K,
        Collapse.hard: 0 * s_K,
        Collapse.quadratic: (s_K.min() / s_K) ** 2,
    }
    lost_K = 1 - kept_K[how]
    right_AB = gradient_AB - (gradient_AB @ v_BK * lost_K) @ v_BK.T
    return right_AB - u_AK @ (lost_K[:, None] * (u_AK.T @ right_AB))
