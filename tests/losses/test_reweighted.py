"""WGA and SatImp are their papers' formulas in float64: weights without a gradient, a mean over tokens."""

from dataclasses import replace

import pytest
import torch
from engine_cases import case, head, through_engine

from mari_cli.losses.base import RetainLoss
from mari_cli.losses.satimp import SatImpConfig, satimp
from mari_cli.losses.wga import WGAConfig, wga

CASES = {
    "wga": (WGAConfig(name="wga", beta=0.7), lambda p: p**0.7),
    "wga at 0": (WGAConfig(name="wga", beta=0), lambda p: torch.ones_like(p)),
    "satimp": (SatImpConfig(name="satimp", beta1=5, beta2=1), lambda p: p**5 * (1 - p)),
    "satimp, one side": (SatImpConfig(name="satimp", beta1=0, beta2=2), lambda p: (1 - p) ** 2),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_papers_formula(name):
    config, weight = CASES[name]
    objective, step, rows = case(replace(config, forget_weight=0.6, retain_weight=0.3))
    of = head()
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    log_p = {role: of(h[role]).log_softmax(-1) for role in h}
    label = {role: log_p[role].gather(1, rows[role].labels_N[:, None])[:, 0] for role in h}
    forget = (weight(label["forget"].exp().detach()) * label["forget"]).mean()
    expected = 0.6 * forget - 0.3 * label["retain"].mean()
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, of, head(seed=7), chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[role], gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("config", [WGAConfig(name="wga"), SatImpConfig(name="satimp")])
def test_it_asks_nothing_of_the_model_before(config):
    """A copy of the model before that no number depends on would take the memory of a second model."""
    needs = config.objective().needs
    assert needs.beside_reference == needs.reference_log_p == needs.reference_layer == ()
    held = replace(config, retain_loss=RetainLoss.kl).objective().needs
    assert held.beside_reference == ("retain",)


@pytest.mark.parametrize("beta2", [0.0, 1.0, 2.5])
def test_a_token_that_the_model_is_certain_of_or_has_forgotten_has_a_finite_gradient(beta2):
    log_p = torch.tensor([0.0, -1e-9, -900.0], requires_grad=True)
    value = satimp(log_p, beta1=5.0, beta2=beta2) + wga(log_p, beta=1.0)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(log_p.grad).all()
    assert log_p.grad[2] == 0
