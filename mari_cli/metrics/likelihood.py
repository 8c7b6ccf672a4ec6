"""How likely an answer is to the model.

Shapes: T = tokens of one answer, N = answers. Losses are -log p of the true token given the true tokens
before it, in nats.
"""

from math import exp

from torch import Tensor

from mari_cli.metrics.statistics import exp_or_inf


def _mean(loss_T: Tensor) -> float:
    if loss_T.dim() != 1 or len(loss_T) == 0:
        raise ValueError(f"expected the losses of at least one token as a vector, got {loss_T.shape}")
    return loss_T.double().mean().item()


def answer_nll(loss_T: Tensor) -> float:
    """Mean token loss of one answer, nats per token, >= 0."""
    return _mean(loss_T)


def answer_probability(loss_T: Tensor) -> float:
    """exp(-mean token loss) of one answer, in [0, 1]: the geometric mean of its tokens' probabilities."""
    return exp(-_mean(loss_T))


def perplexity(loss_sum_N: Tensor, tokens_N: Tensor) -> float:
    """exp of the mean loss over all tokens of a set, >= 1: a token weighs the same in every answer."""
    tokens = tokens_N.sum().item()
    if tokens <= 0:
        raise ValueError("perplexity needs at least one token")
    return exp_or_inf(loss_sum_N.double().sum().item() / tokens)
