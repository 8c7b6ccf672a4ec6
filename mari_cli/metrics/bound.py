"""The bound against measurement: what information says of a detector's accuracy, and what detectors reach.

A detector sees n tokens of the model's predictions and says Z (`metrics/marginal.py`). By Fano's inequality
it is right at most as often as the information of what it sees allows. Tokens that have the information I
each, and are independent given Z, have at most n I together, and never more than H(Z). Tokens of one answer
are *not* independent draws of the pooled prediction, so that the pooled figure is no bound of whole answers:
what the best threshold of a membership score reaches stands beside it, and may lie above.
"""

from math import log, log1p

from scipy.optimize import brentq


def check_prior(prior: float) -> None:
    """Raise ValueError for a prior that is not between 0 and 1."""
    if not 0 < prior < 1:
        raise ValueError(f"prior must be between 0 and 1, got {prior}")


def _entropy_gap(x: float) -> float:
    """log 2 - h((1-x)/2) for x in [0, 1], h the binary entropy in nats: x²/2 + …, without cancellation."""
    return log(2) if x >= 1 else ((1 + x) * log1p(x) + (1 - x) * log1p(-x)) / 2


def prior_entropy(prior: float) -> float:
    """H(Z) in nats: no information about Z is above it."""
    check_prior(prior)
    return log(2) - _entropy_gap(abs(1 - 2 * prior))


def fano_accuracy_bound(information_nats: float, *, prior: float = 0.5) -> float:
    """No detector is right about Z more often: 1 - h⁻¹(H(Z) - I), h⁻¹ on [0, 1/2].

    Fano: a detector's error P has h(P) >= H(Z|X) = H(Z) - I, and H(Z) = log 2 at prior 1/2. Information is
    clamped to [0, H(Z)]. Solved for 1 - 2P, which keeps its digits near I = 0, where h is flat.
    """
    information = min(max(information_nats, 0.0), prior_entropy(prior))
    gap = min(_entropy_gap(abs(1 - 2 * prior)) + information, log(2))
    if gap == 0:
        return 0.5
    x = brentq(lambda x: _entropy_gap(x) - gap, 0.0, 1.0, xtol=1e-15, rtol=1e-15)
    return (1 + float(x)) / 2


def information_of_tokens(information_nats: float, tokens: float, *, prior: float = 0.5) -> float:
    """min(H(Z), n I) in nats: what ``tokens`` independent tokens of the information ``information_nats`` tell
    of Z at most (at prior 1/2 H(Z) is log 2)."""
    return min(prior_entropy(prior), max(0.0, tokens * information_nats))


def accuracy_of_advantage(advantage: float) -> float:
    """The accuracy (1 + a) / 2 of a threshold with |TPR - FPR| = a, where both answers are equally likely."""
    return (1 + advantage) / 2
