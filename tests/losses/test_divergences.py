"""Divergences from what is supported: limits, zeros, and what happens where a prediction vanishes."""

import math
from functools import partial

import pytest
import torch

from mari_cli.losses.divergences.forward import forward
from mari_cli.losses.divergences.jeffreys import jeffreys
from mari_cli.losses.divergences.jensen_shannon import jensen_shannon
from mari_cli.losses.divergences.reverse import reverse
from mari_cli.losses.readings.support_information import pointwise

ALL = {
    "jensen_shannon": partial(jensen_shannon, prior=0.3, share=0.7),
    "forward": forward,
    "reverse": reverse,
    "jeffreys": jeffreys,
}


def log_distributions(seed: int, n: int = 4, size: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, size, generator=generator, dtype=torch.float64).log_softmax(-1)


def at_logits(divergence, log_q, log_p):
    """The gradient at the logits of p."""
    _, score = divergence(log_q, log_p)
    return score - log_p.exp() * score.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", ALL)
def test_the_score_is_the_gradient_at_the_logits(name):
    log_q, z = log_distributions(1), log_distributions(2).requires_grad_()
    value, _ = ALL[name](log_q, z.log_softmax(-1))
    (expected,) = torch.autograd.grad(value.sum(), z) if name != "jensen_shannon" else (None,)
    if expected is None:  # its value is made without a graph
        q, p = log_q.exp(), z.log_softmax(-1).exp()
        ru = 0.3 * q + 0.7 * p
        m = 0.7 * q + 0.3 * ru
        textbook = (0.7 * q * (q / m).log() + 0.3 * ru * (ru / m).log()).sum(-1)
        torch.testing.assert_close(value, textbook.detach())
        (expected,) = torch.autograd.grad(textbook.sum(), z)
    found = at_logits(ALL[name], log_q, z.detach().log_softmax(-1))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_at_what_is_supported_value_and_gradient_are_nothing(name):
    log_q = log_distributions(1)
    value, _ = ALL[name](log_q, log_q)
    assert value.abs().max() < 1e-15
    assert at_logits(ALL[name], log_q, log_q).abs().max() < 1e-15


@pytest.mark.parametrize(("prior", "scale", "limit"), [(1 - 1e-6, 1e-6, forward), (1e-6, 1e-6, reverse)])
def test_the_limits_of_the_information_in_the_prior(prior, scale, limit):
    """I/(1-π) → KL(q ‖ p) as π → 1, I/π → KL(p ‖ q) as π → 0, and so do the gradients."""
    log_q, log_p = log_distributions(1), log_distributions(2)
    near = partial(jensen_shannon, prior=prior, share=1.0)
    torch.testing.assert_close(near(log_q, log_p)[0] / scale, limit(log_q, log_p)[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(
        at_logits(near, log_q, log_p) / scale, at_logits(limit, log_q, log_p), rtol=1e-4, atol=1e-6
    )


def test_jeffreys_is_symmetric():
    log_q, log_p = log_distributions(1), log_distributions(2)
    torch.testing.assert_close(jeffreys(log_q, log_p)[0], jeffreys(log_p, log_q)[0])


@pytest.mark.parametrize("name", ALL)
def test_a_prediction_that_has_vanished_gives_no_nan(name):
    log_q = torch.tensor([[0.5, 0.5]]).log()
    value, score = ALL[name](log_q, torch.tensor([[-200.0, 0.0]]))
    assert value.isfinite().all()
    assert score.isfinite().all()


def test_the_pointwise_term_pulls_as_hard_however_small_the_probability():
    log_p = torch.tensor([-0.5, -2.0, -300.0])
    value, slope = pointwise(torch.full((3,), -1.0), log_p)
    assert slope.tolist() == [0.5, -1.0, -1.0]
    assert value.tolist() == [0.125, 0.5, 298.5]
    assert math.isclose(pointwise(log_p, log_p)[0].sum().item(), 0.0)
