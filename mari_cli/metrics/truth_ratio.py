"""Truth ratio: whether a wrong answer is as likely to the model as a true one (TOFU, Maini et al. 2024,
https://arxiv.org/abs/2401.06121).

The input is mean token losses in nats, of a paraphrase of the true answer and of several wrong answers of its
form. The ratio is p(wrong) / p(paraphrase), where p of one answer is exp(-mean loss) and p of several answers
is the geometric mean, as in TOFU's published numbers. TOFU's later code takes the arithmetic mean, which
gives another number (about -0.04 in model utility) and has its own name here.

The logarithm of the ratio is stored, because a collapsed model's ratio overflows a float.
"""

from collections.abc import Sequence
from math import exp, expm1, fsum, isfinite, log, log1p

SMALL_PROBABILITY = 1e-10
"""OpenUnlearning adds this to p(paraphrase) before it divides."""


def log_truth_ratio(paraphrase_nll: float, wrong_nlls: Sequence[float]) -> float:
    """log of p(wrong) / p(paraphrase), geometric mean over the wrong answers. 0: both are equally likely; the
    lower, the better the truth is known. Losses in nats per token. Raises ValueError if one is not finite."""
    _require_losses(paraphrase_nll, wrong_nlls)
    return paraphrase_nll - _mean(wrong_nlls)


def log_truth_ratio_arithmetic(paraphrase_nll: float, wrong_nlls: Sequence[float]) -> float:
    """`log_truth_ratio` with the arithmetic mean of the wrong answers' p, at least the geometric mean."""
    _require_losses(paraphrase_nll, wrong_nlls)
    least = min(wrong_nlls)
    return paraphrase_nll - least + log(_mean([exp(least - nll) for nll in wrong_nlls]))


def log_truth_ratio_open_unlearning(log_ratio: float, paraphrase_nll: float) -> float:
    """log of p(wrong) / (p(paraphrase) + 1e-10), as in OpenUnlearning. ``log_ratio`` is without the 1e-10.

    Both are equal up to a paraphrase's loss of about 23 nats per token. Beyond, where a model has collapsed,
    the ratio is about p(wrong) / 1e-10 and goes to 0, even if truth and falsehood are equally likely.
    """
    above = paraphrase_nll + log(SMALL_PROBABILITY)
    return log_ratio - max(above, 0.0) - log1p(exp(-abs(above)))


def truth_ratio_of_forgotten(log_ratio: float) -> float:
    """min(r, 1/r), in [0, 1]: 1 where truth and falsehood are equally likely."""
    return exp(-abs(log_ratio))


def truth_ratio_of_known(log_ratio: float) -> float:
    """max(0, 1 - r), in [0, 1]: near 1 where the truth is far more likely than the wrong answers."""
    return max(0.0, -expm1(min(log_ratio, 0.0)))


def normalised_probability(answer_nll: float, wrong_nlls: Sequence[float]) -> float:
    """p / (p + sum of the wrong answers' p), in [0, 1]: the probability of the choice among these answers."""
    _require_losses(answer_nll, wrong_nlls)
    return 1 / fsum(exp(min(answer_nll - nll, 700.0)) for nll in [answer_nll, *wrong_nlls])


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def _require_losses(true_nll: float, wrong_nlls: Sequence[float]) -> None:
    if not wrong_nlls:
        raise ValueError("there must be at least one wrong answer to compare with")
    if not all(isfinite(nll) for nll in (true_nll, *wrong_nlls)):
        raise ValueError(f"losses that are not finite: {true_nll}, {wrong_nlls}")
