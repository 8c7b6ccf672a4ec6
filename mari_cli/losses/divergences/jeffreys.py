"""Jeffreys' divergence KL(q ‖ p) + KL(p ‖ q) = Σ (p - q) log(p/q): the sum of both limits of I(X;Z).

H. Jeffreys 1946, "An invariant form for the prior probability in estimation problems".
"""

from torch import Tensor

from mari_cli.losses.divergences.forward import forward
from mari_cli.losses.divergences.reverse import reverse


def jeffreys(log_q_cL: Tensor, log_p_cL: Tensor) -> tuple[Tensor, Tensor]:
    """Value [c] in nats, >= 0, and score [c, L]."""
    one, other = forward(log_q_cL, log_p_cL), reverse(log_q_cL, log_p_cL)
    return one[0] + other[0], one[1] + other[1]
