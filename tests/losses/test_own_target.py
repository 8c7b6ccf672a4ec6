"""CE-U and Unilogit, which aim at the model's own prediction, are their papers' formulas in float64."""

import math
from dataclasses import replace

import pytest
import torch
from engine_cases import case, head, through_engine
from torch.nn.functional import cross_entropy

from mari_cli.losses.base import RetainLoss
from mari_cli.losses.ceu import CEUConfig, ceu
from mari_cli.losses.unilogit import UnilogitConfig

V = 23


def without_label(z_NV, labels_N):
    """softmax of the logits, that of the label at -∞: a target that carries no gradient."""
    return z_NV.detach().scatter(1, labels_N[:, None], -torch.inf).softmax(-1)


@pytest.mark.parametrize("skip_first", [True, False])
def test_ceu_is_the_papers_cross_entropy_less_the_entropy_of_its_target(skip_first):
    objective, step, rows = case(
        CEUConfig(name="ceu", skip_first=skip_first, forget_weight=0.6, retain_loss=RetainLoss.nll)
    )
    of = head()
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    asked = step.positions["forget"].index_N >= int(skip_first)
    assert asked.sum() == (4 if skip_first else 7)  # of answers with 2, 4 and 1 tokens
    z_NV, labels_N = of(h["forget"])[asked], rows["forget"].labels_N[asked]
    q_NV = without_label(z_NV, labels_N)
    entropy = -(q_NV * q_NV.clamp_min(1e-300).log()).sum(-1).mean()
    paper = cross_entropy(z_NV, q_NV)
    expected = 0.6 * paper + cross_entropy(of(h["retain"]), rows["retain"].labels_N)
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, of, head(seed=7), chunk=3)
    torch.testing.assert_close(terms["ceu"], (paper - entropy).detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[role], gradient, rtol=1e-10, atol=1e-14)


def test_answers_of_one_token_leave_ceu_nothing_and_no_number_that_is_not_finite():
    lengths = {"forget": [1, 1], "retain": [3, 1]}
    objective, step, rows = case(CEUConfig(name="ceu"), lengths=lengths)
    terms, found = through_engine(objective, step, rows, head(), head(seed=7), chunk=3)
    assert terms["loss"].item() == 0
    assert not found["forget"].any()


def test_unilogit_is_the_divergence_from_its_target():
    objective, step, rows = case(UnilogitConfig(name="unilogit", retain_weight=0, forget_weight=0.6))
    of = head("all")
    h_ND = rows["forget"].h_ND.clone().requires_grad_()
    z_NV, labels_N = of(h_ND), rows["forget"].labels_N
    # the logit at which softmax has 1/V
    others_N = z_NV.detach().scatter(1, labels_N[:, None], -torch.inf).logsumexp(-1)
    target_NV = z_NV.detach().scatter(1, labels_N[:, None], (others_N - math.log(V - 1))[:, None])
    log_q_NV, log_p_NV = target_NV.log_softmax(-1), z_NV.log_softmax(-1)
    torch.testing.assert_close(
        log_q_NV.gather(1, labels_N[:, None]).exp(), torch.full((7, 1), 1 / V, dtype=torch.float64)
    )
    expected = 0.6 * (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1).mean()
    (gradient,) = torch.autograd.grad(expected, [h_ND])
    terms, found = through_engine(objective, step, rows, of, head("all", seed=7), chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["forget"], gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("config", [CEUConfig(name="ceu", skip_first=False), UnilogitConfig(name="unilogit")])
def test_in_float32_a_memorised_token_keeps_the_digits_of_its_gradient(config):
    """Of p = 1 - 1e-9 nothing of 1 - p is left in float32; the gradient of CE-U is as large as ever there."""
    objective, step, rows = case(replace(config, retain_loss=RetainLoss.none), lengths={"forget": [1]})
    h_1D = 24 * rows["forget"].h_ND
    p_V = head()(h_1D).softmax(-1)[0]
    label_1 = p_V.argmax(-1, keepdim=True)
    assert 1e-16 < 1 - p_V.max().item() < 1e-7
    wide = {"forget": type(rows["forget"])(h_1D, label_1)}
    narrow = {"forget": type(rows["forget"])(h_1D.float(), label_1)}
    of = head(dtype=torch.float32)
    _, expected = through_engine(objective, step, wide, head(), head(), chunk=3)
    terms, found = through_engine(objective, step, narrow, of, of, chunk=3)
    assert torch.isfinite(terms["loss"])
    torch.testing.assert_close(found["forget"].double(), expected["forget"], rtol=2e-4, atol=1e-9)


def test_neither_asks_the_model_before_for_anything_of_the_forget_data():
    for config in (CEUConfig(name="ceu"), UnilogitConfig(name="unilogit")):
        needs = config.objective().needs
        assert "forget" not in (*needs.beside_reference, *needs.reference_log_p)


def test_ceu_is_the_unlikelihood_of_the_true_token():
    x = torch.tensor([-40.0, 0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(ceu(x), -torch.log1p(-x.sigmoid()))
