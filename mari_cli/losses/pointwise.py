"""Pointwise marginal information of the observed token, log p(y) - log q(y), driven to 0 by a Huber loss.

The gradients of the divergences vanish where p and q are both small, but a forgotten token has to end there,
so they stop too early with q of a model that never saw the data. This term's gradient does not vanish.

Huber(x) = x²/2 where |x| < 1, else |x| - 1/2 (P. Huber 1964), x in nats.
"""

from torch import Tensor


def pointwise(log_q_c: Tensor, log_p_c: Tensor) -> tuple[Tensor, Tensor]:
    """Huber(log p(y) - log q(y)) [c], and its derivative at log p(y) [c], which is in [-1, 1]."""
    x_c = log_p_c - log_q_c
    slope_c = x_c.clamp(-1, 1)
    return slope_c * (x_c - slope_c / 2), slope_c
