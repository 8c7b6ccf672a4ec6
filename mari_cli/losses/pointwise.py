"""Pointwise marginal information of the observed token, log p(y) - log q(y), driven to 0 by a Huber loss.

The divergences fade where p and q are both small, and there a forgotten token has to end: with q of a model
that never saw the data they come to rest short of it. This term sees the token itself, at any probability.

Huber(x) = x²/2 where |x| < 1, else |x| - 1/2 (P. Huber 1964), x in nats.
"""

from torch import Tensor


def pointwise(log_q_c: Tensor, log_p_c: Tensor) -> tuple[Tensor, Tensor]:
    """Huber(log p(y) - log q(y)) [c], and its derivative at log p(y) [c], which is in [-1, 1]."""
    x_c = log_p_c - log_q_c
    slope_c = x_c.clamp(-1, 1)
    return slope_c * (x_c - slope_c / 2), slope_c
