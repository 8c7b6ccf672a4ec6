"""The paper's divergence: marginal information I(X;Z), a generalised Jensen-Shannon divergence
(losses/marginal.py), of q against the mixture (1-ρ) q + ρ p."""

from torch import Tensor

from mari_cli.losses.marginal import information_and_gradient


def jensen_shannon(
    log_q_cL: Tensor, log_p_cL: Tensor, *, prior: float, share: float
) -> tuple[Tensor, Tensor]:
    """Value [c] in nats, in [0, log 2], and score [c, L]. ``prior``: π = P(Z=1); ``share``: ρ."""
    p_cL = log_p_cL.exp()
    settings = (p_cL.new_full((), value) for value in (prior, share))
    information_c, _, gradient_cL = information_and_gradient(log_q_cL.exp(), p_cL, *settings)
    return information_c, gradient_cL.mul_(p_cL)
