"""How far a prediction p is from the distribution q that the retain data supports: a file each.

Every divergence is a function of (log q, log p), both [c, L] over L outcomes that add up to 1. It returns its
value [c] in nats and the score p ∘ ∂D/∂p [c, L], from which follows the gradient at the logits,
score - p · Σ score. A score stays finite where p vanishes; ∂D/∂p does not.

Shapes: c positions, L outcomes: the tokens that q names, and all others as one.
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
"""(log q, log p) to (value, score)."""

FREE_OF_PRIOR: dict[Divergence, FromSupport] = {
    Divergence.forward: forward,
    Divergence.reverse: reverse,
    Divergence.jeffreys: jeffreys,
}


def divergence_of(divergence: Divergence, *, prior: float, share: float) -> FromSupport:
    """The function that ``divergence`` names. ``prior``: P(Z=1); ``share``: the forget side's weight in the
    joint distribution. Only Jensen-Shannon reads them."""
    if divergence is Divergence.jensen_shannon:
        return partial(jensen_shannon, prior=prior, share=share)
    return FREE_OF_PRIOR[divergence]
