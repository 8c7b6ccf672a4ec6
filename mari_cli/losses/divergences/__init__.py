"""Divergences of a prediction p from the distribution q that the retain data supports, one file each.

Every divergence is a function of (log q, log p), both [c, L] over L outcomes whose probabilities sum to 1. It
returns its value [c] in nats and the score p ∘ ∂D/∂p [c, L]. The gradient at the logits is score - p · Σ
score. A score stays finite where p is 0; ∂D/∂p does not.

Shapes: c positions, L outcomes: the stored tokens of q, and all others as one.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mari_cli.losses.divergences.forward import forward
from mari_cli.losses.divergences.jeffreys import jeffreys
from mari_cli.losses.divergences.jensen_shannon import jensen_shannon
from mari_cli.losses.divergences.reverse import reverse
from mari_cli.losses.mari import Divergence

FromSupport = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The type of a divergence: (log q, log p) to (value, score)."""

FREE_OF_PRIOR: dict[Divergence, FromSupport] = {
    Divergence.forward: forward,
    Divergence.reverse: reverse,
    Divergence.jeffreys: jeffreys,
}


def divergence_of(divergence: Divergence, *, prior: float, share: float) -> FromSupport:
    """The function named ``divergence``. ``prior``: P(Z=1); ``share``: the forget side's weight in the joint
    distribution. Only Jensen-Shannon uses these two."""
    if divergence is Divergence.jensen_shannon:
        return partial(jensen_shannon, prior=prior, share=share)
    return FREE_OF_PRIOR[divergence]
