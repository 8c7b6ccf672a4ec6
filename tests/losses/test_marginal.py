"""The marginal-information term: closed forms, exactness of its gradient, and what must not change it."""

import itertools
import math

import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mari_cli.losses import marginal

WEIGHTS = {"prior": 0.4, "forget_share": None}


def predictions(rows: int, vocabulary: int, seed: int, *, grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 2
    return logits.softmax(-1).requires_grad_(grad)


def textbook_jsd(p: torch.Tensor, q: torch.Tensor, prior: float) -> torch.Tensor:
    m = (1 - prior) * p + prior * q
    return (1 - prior) * (p * (p / m).log()).sum(-1) + prior * (q * (q / m).log()).sum(-1)


def test_two_distributions_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    # M = (3/4, 1/4): half of KL(p‖M) and half of KL(q‖M)
    by_hand = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) + 0.5 * math.log(1 / 0.75)
    assert marginal.generalised_jsd(p, q, 0.5).item() == pytest.approx(by_hand, abs=1e-7)


def test_disjoint_supports_tell_all_of_the_coin():
    p, q = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for prior in (0.5, 0.2):
        entropy = -prior * math.log(prior) - (1 - prior) * math.log(1 - prior)
        assert marginal.generalised_jsd(p, q, prior).item() == pytest.approx(entropy, abs=1e-12)


def test_tiny_differences_do_not_cancel():
    p = torch.full((1000,), 1e-3, dtype=torch.float32)
    q = p.clone()
    q[0] += 1e-6
    q[1] -= 1e-6
    exact = textbook_jsd(p.double(), q.double(), 0.5).item()
    assert marginal.generalised_jsd(p, q, 0.5).item() == pytest.approx(exact, rel=1e-3)


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_it_lies_between_zero_and_the_entropy_of_the_coin(seed, prior):
    p, q = predictions(2, 7, seed)
    value = marginal.generalised_jsd(p, q, prior).item()
    entropy = -prior * math.log(prior) - (1 - prior) * math.log(1 - prior)
    assert -1e-15 <= value <= entropy
    assert value == pytest.approx(textbook_jsd(p, q, prior).item(), abs=1e-12)


def estimate(name: str, p_r, p_u, *, index_r=None, index_u=None, states=None, weights=WEIGHTS):
    if name == "pooled":
        return naive.pooled_information(p_r, p_u, **weights)
    if name == "token":
        return naive.token_information(p_r, p_u, index_r, index_u, **weights)
    supported = naive.neighbour_weights(*states, temperature=0.1, neighbours=3) @ p_r
    tokens = torch.arange(p_r.shape[1]).expand(len(p_u), -1)
    share = weights["forget_share"] or len(p_u) / (len(p_r) + len(p_u))
    return naive.supported_information(p_u, tokens, supported, prior=weights["prior"], share=share).mean()


def setting(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    index_r, index_u = torch.tensor([0, 1, 2, 0, 1, 0, 1]), torch.tensor([0, 1, 2, 3, 0])
    states = (
        torch.randn(7, 4, generator=generator, dtype=torch.float64),
        torch.randn(5, 4, generator=generator, dtype=torch.float64),
    )
    return {"index_r": index_r, "index_u": index_u, "states": states}


ESTIMATORS = ("pooled", "token", "context")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradcheck(name):
    # what a context supports is a target, not something to move
    p_r, p_u = predictions(7, 6, 1, grad=name != "context"), predictions(5, 6, 2, grad=True)
    assert torch.autograd.gradcheck(
        lambda r, u: estimate(name, r, u, **setting()), (p_r, p_u), atol=1e-9, rtol=1e-6
    )


def test_the_gradient_is_that_of_the_textbook_formula():
    """The logarithms are detached in the formula; the gradient must not notice."""
    p, q = predictions(4, 6, 1, grad=True), predictions(4, 6, 2, grad=True)
    prior = torch.tensor([0.1, 0.4, 0.5, 0.9], dtype=torch.float64)
    ours = torch.autograd.grad(marginal.generalised_jsd(p, q, prior).sum(), (p, q))
    rows = [textbook_jsd(p[i], q[i], prior[i].item()) for i in range(4)]
    theirs = torch.autograd.grad(torch.stack(rows).sum(), (p, q))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_it_vanishes_where_retain_and_forget_predict_alike(name):
    same = predictions(1, 6, 3)
    value = estimate(name, same.expand(7, 6), same.expand(5, 6), **setting())
    assert value.item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_order_of_positions_does_not_matter(name):
    p_r, p_u, rest = predictions(7, 6, 1), predictions(5, 6, 2), setting()
    before = estimate(name, p_r, p_u, **rest)
    r, u = torch.randperm(7), torch.randperm(5)
    after = estimate(
        name,
        p_r[r],
        p_u[u],
        index_r=rest["index_r"][r],
        index_u=rest["index_u"][u],
        states=(rest["states"][0][r], rest["states"][1][u]),
    )
    torch.testing.assert_close(before, after, rtol=1e-12, atol=0)


def test_completions_of_one_length_make_the_token_estimator_the_mean_over_positions():
    p_r, p_u = predictions(6, 5, 1), predictions(9, 5, 2)
    value = naive.token_information(
        p_r, p_u, torch.arange(3).repeat(2), torch.arange(3).repeat(3), prior=0.3, forget_share=0.25
    )
    by_position = [
        textbook_jsd(p_r[c::3].mean(0), 0.75 * p_r[c::3].mean(0) + 0.25 * p_u[c::3].mean(0), 0.3)
        for c in range(3)
    ]
    torch.testing.assert_close(value, torch.stack(by_position).mean(), rtol=1e-12, atol=0)


def test_the_token_estimator_is_the_conditional_information_of_one_joint_distribution():
    """Against I(X;Z|C) written out from the joint table P(z, c, x)."""
    p_r, p_u, rest = predictions(7, 6, 1), predictions(5, 6, 2), setting()
    prior, share = 0.4, 0.3
    table = torch.zeros(2, 4, 6, dtype=torch.float64)  # z, c, x
    for row, c in zip(p_r, rest["index_r"], strict=True):
        table[0, c] += (1 - prior) * row / 7
        table[1, c] += prior * (1 - share) * row / 7
    for row, c in zip(p_u, rest["index_u"], strict=True):
        table[1, c] += prior * share * row / 5
    p_c, p_zc, p_cx = table.sum((0, 2)), table.sum(2), table.sum(0)
    ratio = table * p_c[None, :, None] / (p_zc[:, :, None] * p_cx[None])
    expected = (table * torch.where(table > 0, ratio.log(), 0.0)).sum()
    value = naive.token_information(
        p_r, p_u, rest["index_r"], rest["index_u"], prior=prior, forget_share=share
    )
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_conditioning_on_a_constant_is_pooling():
    p_r, p_u = predictions(7, 6, 1), predictions(5, 6, 2)
    zeros = torch.zeros(7, dtype=torch.long), torch.zeros(5, dtype=torch.long)
    torch.testing.assert_close(
        naive.token_information(p_r, p_u, *zeros, **WEIGHTS),
        naive.pooled_information(p_r, p_u, **WEIGHTS),
    )


def test_neighbours_are_the_nearest_and_their_weights_sum_to_one():
    r = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    weights = naive.neighbour_weights(r, torch.tensor([[2.0, 0.1]]), temperature=0.1, neighbours=2)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0].nonzero().flatten().tolist() == [0, 1]
    assert weights[0, 0] > 0.99


def test_tokens_together_as_one_outcome_tell_no_more_than_apart():
    p, q = (
        torch.randn(3, 12, generator=torch.Generator().manual_seed(i)).double().softmax(-1) for i in (1, 2)
    )
    order = q.argsort(-1, descending=True)
    by_stored = [
        naive.supported_information(p, order[:, :k], q.gather(-1, order[:, :k]), prior=0.5, share=0.5)
        for k in (0, 1, 4, 11, 12)
    ]
    for fewer, more in itertools.pairwise(by_stored):
        assert (fewer <= more + 1e-15).all()
    torch.testing.assert_close(by_stored[-1], marginal.generalised_jsd(q, 0.5 * q + 0.5 * p, 0.5))
    torch.testing.assert_close(by_stored[-2], by_stored[-1])  # of the last token, what is left is all


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_gradient_of_the_information_is_that_of_autograd(share):
    p, q = (
        torch.randn(3, 12, generator=torch.Generator().manual_seed(i)).double().softmax(-1) for i in (1, 2)
    )
    p.requires_grad_()
    q.requires_grad_()
    value = marginal.generalised_jsd(q, (1 - share) * q + share * p, 0.3)
    expected = torch.autograd.grad(value.sum(), (q, p))
    settings = torch.full((3,), 0.3).double(), torch.full((3,), share).double()
    found, *gradients = marginal.information_and_gradient(q.detach(), p.detach(), *settings)
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(gradients, list(expected))
