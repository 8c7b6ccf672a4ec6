"""SimNPO is its paper's formula, in float64, with the gradient of full logits."""

import math

import pytest
import torch
from engine_cases import case, head, through_engine

from mari_cli.losses.simnpo import SimNPOConfig, simnpo


@pytest.mark.parametrize("gamma", [0.0, 0.8])
def test_simnpo_is_the_papers_formula(gamma):
    config = SimNPOConfig(name="simnpo", beta=2.5, gamma=gamma, retain_weight=0.7)
    objective, step, rows = case(config)
    of = head()
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    log_p = {role: of(h[role]).log_softmax(-1) for role in h}
    label = {role: log_p[role].gather(1, rows[role].labels_N[:, None])[:, 0] for role in h}
    values, start = [], 0
    for length in (2, 4, 1):  # of the forget answers
        reward = 2.5 / length * label["forget"][start : start + length].sum()
        values.append(-(2 / 2.5) * torch.log(1 / (1 + torch.exp(reward + gamma))))
        start += length
    expected = torch.stack(values).mean() - 0.7 * label["retain"].mean()
    gradients = torch.autograd.grad(expected, [h["forget"], h["retain"]])
    terms, found = through_engine(objective, step, rows, of, head(seed=7), chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["forget"], gradients[0], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found["retain"], gradients[1], rtol=1e-10, atol=1e-14)


def test_simnpo_asks_the_model_before_for_nothing_of_the_forget_data():
    needs = case(SimNPOConfig(name="simnpo"))[0].needs
    assert needs.reference_log_p == needs.beside_reference == ()


def test_simnpo_becomes_gradient_ascent_as_beta_vanishes_and_leaves_a_forgotten_answer_alone():
    log_p = torch.tensor([-3.0, -900.0], requires_grad=True)
    simnpo(log_p, beta=1e-6, gamma=0.0).sum().backward()
    torch.testing.assert_close(log_p.grad, torch.ones(2), rtol=1e-3, atol=0)
    log_p = torch.tensor([-900.0], requires_grad=True)
    value = simnpo(log_p, beta=2.5, gamma=0.0)
    value.sum().backward()
    assert log_p.grad.item() < 1e-20
    assert simnpo(torch.zeros(1), beta=2.5, gamma=0.0).item() == pytest.approx(2 * math.log(2) / 2.5)
