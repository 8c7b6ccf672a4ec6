"""Divergences of a prediction p from the distribution q that the retain data supports.

Every divergence is a function of (log q, log p), both [c, L] over L outcomes whose probabilities sum to 1. It
returns its value [c] in nats and the score p ∘ ∂D/∂p [c, L]. The gradient at the logits is score - p · Σ
score. A score stays finite where p is 0; ∂D/∂p does not.

Shapes: c positions, L outcomes: the stored tokens of q, and all others as one.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mari_cli.losses.marginal import information_and_gradient
from mari_cli.losses.mari import Divergence

FromSupport = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The type of a divergence: (log q, log p) to (value, score)."""


def jensen_shannon(
    log_q_cL: Tensor, log_p_cL: Tensor, *, prior: float, share: float
) -> tuple[Tensor, Tensor]:
    """The paper's: marginal information I(X;Z), a generalised Jensen-Shannon divergence (losses/marginal.py),
    of q against the mixture (1-ρ) q + ρ p, in [0, log 2]. ``prior``: π = P(Z=1); ``share``: ρ."""
    p_cL = log_p_cL.exp()
    settings = (p_cL.new_full((), value) for value in (prior, share))
    information_c, _, gradient_cL = information_and_gradient(log_q_cL.exp(), p_cL, *settings)
    return information_c, gradient_cL.mul_(p_cL)


def forward(log_q_cL: Tensor, log_p_cL: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p) = Σ q log(q/p), >= 0: the limit of I(X;Z)/(1-π) at prior π = 1 and share 1.

    Its gradient at the logits is p - q: a supported token is pulled up at full strength, however small p is.
    """
    q_cL = log_q_cL.exp()
    terms_cL = torch.where(q_cL > 0, q_cL * (log_q_cL - log_p_cL), 0.0)
    return terms_cL.sum(-1), -q_cL


def reverse(log_q_cL: Tensor, log_p_cL: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q) = Σ p log(p/q), >= 0: the limit of I(X;Z)/π at prior π = 0 and share 1.

    Its gradient at the logits is p ∘ (log(p/q) - KL): it still lowers an unsupported token when p is small. A
    constant in ∂D/∂p changes no logit and is left out.
    """
    p_cL = log_p_cL.exp()
    score_cL = torch.where(p_cL > 0, p_cL * (log_p_cL - log_q_cL), 0.0)
    return score_cL.sum(-1), score_cL


def jeffreys(log_q_cL: Tensor, log_p_cL: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p) + KL(p ‖ q) = Σ (p - q) log(p/q), >= 0: the sum of both limits of I(X;Z). H. Jeffreys 1946,
    "An invariant form for the prior probability in estimation problems"."""
    one, other = forward(log_q_cL, log_p_cL), reverse(log_q_cL, log_p_cL)
    return one[0] + other[0], one[1] + other[1]


def divergence_of(divergence: Divergence, *, prior: float, share: float) -> FromSupport:
    """The function named ``divergence``. ``prior``: P(Z=1); ``share``: the forget side's weight in the joint
    distribution. Only Jensen-Shannon uses these two."""
    functions: dict[Divergence, FromSupport] = {
        Divergence.jensen_shannon: partial(jensen_shannon, prior=prior, share=share),
        Divergence.forward: forward,
        Divergence.reverse: reverse,
        Divergence.jeffreys: jeffreys,
    }
    return functions[divergence]
