"""JensUn is its paper's formula in float64, and its targets are the tokens of the refusal, over and over."""

import math
from dataclasses import replace

import pytest
import torch
from engine_cases import case, head, through_engine

from mari_cli.losses.jensun import JensUnConfig, jensen_shannon_to_token


def jensen_shannon(p, q):
    m = (p + q) / 2
    return (p * (p / m).log()).sum(-1) / 2 + (torch.xlogy(q, q) - q * m.log()).sum(-1) / 2


def test_jensun_is_the_papers_formula():
    objective, step, rows = case(JensUnConfig(name="jensun", forget_weight=0.6, retain_weight=0.3))
    assert set(rows) == {"alternative", "retain"}  # the forget items with other labels: one forward pass
    of, reference = head("all"), head("all", seed=7)
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    p = {role: of(h[role]).softmax(-1) for role in h}
    refusal = torch.nn.functional.one_hot(rows["alternative"].labels_N, p["retain"].shape[-1]).double()
    before = reference(rows["retain"].reference_ND).softmax(-1).detach()
    expected = 0.6 * jensen_shannon(p["alternative"], refusal).mean()
    expected = expected + 0.3 * jensen_shannon(p["retain"], before).mean()
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, of, reference, chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[role], gradient, rtol=1e-9, atol=1e-14)


def test_the_divergence_is_between_nothing_and_log_two_and_finite_for_any_probability():
    log_p = torch.tensor([0.0, -1.0, -50.0, -1e4], requires_grad=True)
    value = jensen_shannon_to_token(log_p)
    value.sum().backward()
    assert value[0].abs() < 1e-7
    assert value[-1].item() == pytest.approx(math.log(2))
    assert torch.isfinite(log_p.grad).all()


def test_the_refusal_must_say_something():
    with pytest.raises(ValueError, match=r"loss\.refusal must not be empty"):
        replace(JensUnConfig(name="jensun"), refusal=" ")
