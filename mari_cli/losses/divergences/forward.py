"""Forward divergence KL(q ‖ p) = Σ q log(q/p): the limit of I(X;Z)/(1-π) at prior π = 1 and share 1.

Its gradient at the logits is p - q: a supported token is pulled up at full strength, however small p is.
"""

import torch
from torch import Tensor


def forward(log_q_cL: Tensor, log_p_cL: Tensor) -> tuple[Tensor, Tensor]:
    """Value [c] in nats, >= 0, and score [c, L]."""
    q_cL = log_q_cL.exp()
    terms_cL = torch.where(q_cL > 0, q_cL * (log_q_cL - log_p_cL), 0.0)
    return terms_cL.sum(-1), -q_cL
