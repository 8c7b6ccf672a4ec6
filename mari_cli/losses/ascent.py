"""Gradient ascent on the forget data; the kinds differ in their retain loss."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import ForgetLossConfig, RetainLoss, register

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


def ascent(config: ForgetLossConfig, retain: RetainLoss) -> "Objective":
    """-forget_weight · NLL(forget) + retain_weight · the retain loss."""
    from mari_cli.losses.objective import beside_retain, mean_nll
    from mari_cli.losses.readings import LogP

    def forget(step: "Step", readings: "Readings") -> "tuple[Tensor, Terms]":
        nll = mean_nll("forget", step, readings)
        return -nll, {"forget_nll": nll}

    return beside_retain(config, forget, [LogP("forget")], nonlinear=(), retain=retain)


@register
@dataclass(kw_only=True)
class GradAscent(ForgetLossConfig):
    """Gradient ascent without a retain loss."""

    kind: str = "grad_ascent"
    holds_retain = False

    def objective(self) -> "Objective":
        return ascent(self, RetainLoss.none)


@register
@dataclass(kw_only=True)
class GradDiff(ForgetLossConfig):
    """Descent on retain: gradient difference, B. Liu et al. 2022, https://arxiv.org/abs/2203.12817."""

    kind: str = "grad_diff"

    def objective(self) -> "Objective":
        return ascent(self, RetainLoss.nll)


@register
@dataclass(kw_only=True)
class KLGA(ForgetLossConfig):
    """KL to the reference on retain: KL minimisation, P. Maini et al. 2024 (TOFU),
    https://arxiv.org/abs/2401.06121, section 3.3."""

    kind: str = "kl_ga"

    def objective(self) -> "Objective":
        return ascent(self, RetainLoss.kl)
