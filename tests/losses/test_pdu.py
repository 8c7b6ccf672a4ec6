"""PDU is its paper's formula in float64, and its dual variable follows the retain loss of the whole step."""

from dataclasses import replace

import pytest
import torch
from engine_cases import case, head, through_engine

from mari_cli.losses.base import RetainLoss
from mari_cli.losses.pdu import PDUConfig, dual_step


@pytest.mark.parametrize("weight", [None, 0.0, 7.5])
def test_pdu_is_the_papers_formula(weight):
    objective, step, rows = case(PDUConfig(name="pdu", forget_weight=0.6, retain_weight=2.0))
    if weight is not None:
        step = replace(step, retain_weight=torch.tensor(weight, dtype=torch.float64))
    of = head("all")
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    z_NV = of(h["forget"])
    margin = (z_NV.max(-1).values - z_NV.mean(-1)).square().mean()
    nll = torch.nn.functional.cross_entropy(of(h["retain"]), rows["retain"].labels_N)
    expected = 0.6 * margin + (2.0 if weight is None else weight) * nll
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, of, head("all", seed=7), chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[role], gradient, rtol=1e-10, atol=1e-14)


def test_the_dual_variable_rises_above_the_limit_falls_below_it_and_is_never_negative():
    weight = torch.tensor(2.0, dtype=torch.float64)
    assert dual_step(weight, torch.tensor(0.7), limit=0.3, rate=5.0).item() == pytest.approx(4)
    assert dual_step(weight, torch.tensor(0.2), limit=0.3, rate=5.0).item() == pytest.approx(1.5)
    assert dual_step(weight, torch.tensor(0.0), limit=3.0, rate=5.0).item() == 0


def test_nothing_to_limit_is_refused():
    with pytest.raises(ValueError, match=r"loss\.retain_loss=none leaves nothing to limit"):
        PDUConfig(name="pdu", retain_loss=RetainLoss.none)
