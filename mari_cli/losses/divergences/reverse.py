"""Reverse divergence KL(p ‖ q) = Σ p log(p/q): the limit of I(X;Z)/π at prior π = 0 and share 1.

Its gradient at the logits is p ∘ (log(p/q) - KL): it still lowers an unsupported token when p is small.
"""

import torch
from torch import Tensor


def reverse(log_q_cL: Tensor, log_p_cL: Tensor) -> tuple[Tensor, Tensor]:
    """Value [c] in nats, >= 0, and score [c, L]. A constant in ∂D/∂p changes no logit and is left out."""
    p_cL = log_p_cL.exp()
    score_cL = torch.where(p_cL > 0, p_cL * (log_p_cL - log_q_cL), 0.0)
    return score_cL.sum(-1), score_cL
