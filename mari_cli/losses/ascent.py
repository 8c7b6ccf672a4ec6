"""Ascent on the forget data; the kinds differ in what holds the retain side."""

from dataclasses import dataclass

from mari_cli.losses.base import ForgetLossConfig, register


@register
@dataclass(kw_only=True)
class GradAscent(ForgetLossConfig):
    """Nothing holds it."""

    kind: str = "grad_ascent"


@register
@dataclass(kw_only=True)
class GradDiff(ForgetLossConfig):
    """Descent on retain."""

    kind: str = "grad_diff"


@register
@dataclass(kw_only=True)
class KLGA(ForgetLossConfig):
    """KL to the reference on retain."""

    kind: str = "kl_ga"
