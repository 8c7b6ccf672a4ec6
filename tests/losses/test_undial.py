"""UNDIAL is its paper's formula, in float64, with the gradient of full logits."""

import pytest
import torch
from engine_cases import case, head, through_engine

from mari_cli.losses.base import RetainLoss
from mari_cli.losses.undial import UndialConfig


@pytest.mark.parametrize("strength", [0.5, 10.0])
def test_undial_is_the_papers_formula(strength):
    config = UndialConfig(name="undial", strength=strength, forget_weight=0.6, retain_loss=RetainLoss.nll)
    objective, step, rows = case(config)
    of, reference = head(), head(seed=7)
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    labels_N = rows["forget"].labels_N
    adjusted_NV = reference(rows["forget"].reference_ND).detach().clone()
    for n, label in enumerate(labels_N.tolist()):
        adjusted_NV[n, label] -= strength
    log_p_NV = of(h["forget"]).log_softmax(-1)
    expected = -0.6 * (adjusted_NV.softmax(-1) * log_p_NV).sum(-1).mean()
    expected = expected + torch.nn.functional.cross_entropy(of(h["retain"]), rows["retain"].labels_N)
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, of, reference, chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[role], gradient, rtol=1e-10, atol=1e-14)
