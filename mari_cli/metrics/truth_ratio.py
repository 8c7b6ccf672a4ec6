"""Truth ratio: is a wrong answer as likely to the model as a true one (TOFU, Maini et al. 2024,
https://arxiv.org/abs/2401.06121)?

From mean token losses in nats: of a paraphrase of the true answer, and of several wrong answers of its form.
The ratio is p(wrong) / p(paraphrase), where p of one answer is exp(-mean loss) and that of several is their
geometric mean: exp of the mean of their losses, as in TOFU's published numbers. TOFU's later code takes the
arithmetic mean, which is another number (about -0.04 in model utility) and has its own name here.

Everything is kept as the logarithm of the ratio: a collapsed model's ratio is beyond a float, its logarithm
is not.
"""

from collections.abc import Sequence
from math import exp, expm1, fsum, isfinite, log, log1p

SMALL_PROBABILITY = 1e-10
"""What OpenUnlearning adds to p(paraphrase) before it divides."""


def log_truth_ratio(paraphrase_nll: float, wrong_nlls: Sequence[float]) -> float:
    """log of p(wrong) / p(paraphrase), geometric mean over the wrong answers. 0: both are as likely; the
    lower, the better the truth is known. Losses in nats per token; any that is not finite is refused."""
    _require_losses(paraphrase_nll, wrong_nlls)
    return paraphrase_nll - _mean(wrong_nlls)


def log_truth_ratio_arithmetic(paraphrase_nll: float, wrong_nlls: Sequence[float]) -> float:
    """The same with the arithmetic mean of the wrong answers' probabilities, never below the geometric."""
    _require_losses(paraphrase_nll, wrong_nlls)
    least = min(wrong_nlls)
    return paraphrase_nll - least + log(_mean([exp(least - nll) for nll in wrong_nlls]))


def log_truth_ratio_open_unlearning(log_ratio: float, paraphrase_nll: float) -> float:
    """log of p(wrong) / (p(paraphrase) + 1e-10), as in OpenUnlearning, from that of the ratio without.

    The same until the paraphrase costs some 23 nats a token. Beyond, where a model has collapsed, p(wrong) is
    all that is left of the ratio, which goes to 0 however little truth is told from falsehood.
    """
    above = paraphrase_nll + log(SMALL_PROBABILITY)
    return log_ratio - max(above, 0.0) - log1p(exp(-abs(above)))


def truth_ratio_of_forgotten(log_ratio: float) -> float:
    """min(r, 1/r), in [0, 1]: 1 where truth and falsehood are told apart no more."""
    return exp(-abs(log_ratio))


def truth_ratio_of_known(log_ratio: float) -> float:
    """max(0, 1 - r), in [0, 1]: 1 where the truth stands far above all wrong answers."""
    return max(0.0, -expm1(min(log_ratio, 0.0)))


def normalised_probability(answer_nll: float, wrong_nlls: Sequence[float]) -> float:
    """p / (p + sum of the wrong answers' p), in [0, 1]: the choice among the answers offered."""
    _require_losses(answer_nll, wrong_nlls)
    return 1 / fsum(exp(min(answer_nll - nll, 700.0)) for nll in [answer_nll, *wrong_nlls])


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def _require_losses(true_nll: float, wrong_nlls: Sequence[float]) -> None:
    if not wrong_nlls:
        raise ValueError("there must be at least one wrong answer to compare with")
    if not all(isfinite(nll) for nll in (true_nll, *wrong_nlls)):
        raise ValueError(f"losses that are not finite: {true_nll}, {wrong_nlls}")
