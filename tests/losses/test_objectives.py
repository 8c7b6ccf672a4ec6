"""Every loss as a function of readings: closed forms, and what it asks for."""

import math
from dataclasses import replace

import naive
import pytest
import torch
from engine_cases import LOSSES, case, head, naively, through_engine

from mari_cli.losses import preference
from mari_cli.losses.ascent import KLGA, GradAscent, GradDiff
from mari_cli.losses.base import LossConfig
from mari_cli.losses.mari import Estimator, GradientThrough, MariConfig
from mari_cli.losses.objective import build
from mari_cli.losses.readings import LogP
from mari_cli.losses.step import Positions, Step


@pytest.mark.parametrize("estimator", Estimator)
def test_through_forget_the_marginal_term_leaves_the_retain_side_alone(estimator):
    objective, step, rows = case(MariConfig(name="mari", estimator=estimator, retain_weight=0))
    _, gradients = through_engine(objective, step, rows, head(), head(seed=7), chunk=4)
    assert gradients["forget"].abs().sum() > 0
    assert gradients["retain"].abs().sum() == 0


def test_the_retain_term_of_mari_is_kl_from_the_reference():
    objective, step, rows = case(MariConfig(name="mari", mari_weight=0, retain_weight=2))
    of, reference = head(), head(seed=7)
    terms, _ = through_engine(objective, step, rows, of, reference, chunk=4)
    p = of(rows["retain"].h_ND).log_softmax(-1)
    q = reference(rows["retain"].reference_ND).log_softmax(-1)
    expected = 2 * torch.nn.functional.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)


def test_kl_vanishes_at_the_reference():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(naive.kl_from_reference(z, z), torch.zeros(4, dtype=torch.float64))


def test_npo_at_the_reference_is_two_log_two_over_beta():
    log_p = torch.tensor([-3.0, -70.0], dtype=torch.float64)
    expected = torch.full((2,), 2 * math.log(2) / 0.25, dtype=torch.float64)
    torch.testing.assert_close(preference.npo(log_p, log_p, beta=0.25), expected)


def test_npo_becomes_gradient_ascent_as_beta_vanishes():
    log_p = torch.tensor([-3.0, -70.0], requires_grad=True)
    preference.npo(log_p, torch.tensor([-5.0, -10.0]), beta=1e-6).sum().backward()
    torch.testing.assert_close(log_p.grad, torch.ones(2), rtol=1e-4, atol=0)


def test_npo_leaves_a_forgotten_answer_alone():
    log_p = torch.tensor([-1000.0], requires_grad=True)
    preference.npo(log_p, torch.tensor([-10.0]), beta=0.1).sum().backward()
    assert log_p.grad.abs().item() < 1e-20


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_dpo_begins_as_strong_as_npo_and_gradient_ascent_whatever_beta(beta):
    preferred, log_p = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (-3.0, -9.0))
    value = preference.dpo(preferred, preferred.detach(), log_p, log_p.detach(), beta=beta)
    assert value.item() == pytest.approx(2 * math.log(2) / beta)
    value.backward()
    assert (preferred.grad.item(), log_p.grad.item()) == (pytest.approx(-1), pytest.approx(1))


def test_dpo_is_the_value_that_tofu_and_open_unlearning_compute():
    """-(2/β) log σ(β [Δ(I don't know) - Δ(answer)]), by hand at β = 0.1: the margin is 2 - (-3) = 5."""
    x = [torch.tensor([value], dtype=torch.float64) for value in (-8.0, -10.0, -15.0, -12.0)]
    assert preference.dpo(*x, beta=0.1).item() == pytest.approx(20 * math.log(1 + math.exp(-0.5)))


def test_altpo_is_dpo_of_other_answers():
    """In float64, from full logits, with its gradient at the answers of both sides."""
    objective, step, rows = case(LOSSES["altpo"])
    of = head()
    h = {role: r.h_ND.clone().requires_grad_() for role, r in rows.items()}
    label = {role: -naive.token_nll(of(h[role]), rows[role].labels_N) for role in h}
    parts = {"forget": label["forget"].split([2, 4, 1]), "alternative": label["alternative"].split([1, 3, 2])}
    ratio = {
        role: torch.stack([answer.sum() for answer in answers]) - step.reference_log_p[role]
        for role, answers in parts.items()
    }
    preferred = -(2 / 0.3) * torch.log(1 / (1 + torch.exp(-0.3 * (ratio["alternative"] - ratio["forget"]))))
    expected = preferred.mean() - 0.5 * label["retain"].mean()
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, of, head(seed=7), chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[role], gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("by_length", [False, True])
def test_npo_sums_over_the_tokens_of_a_sequence_and_by_length_averages_over_them(by_length):
    config = replace(LOSSES["npo"], length_normalised=by_length)
    labels = torch.zeros(5, dtype=torch.long)
    forget = Positions(labels, torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2]), 2, 5, 2)
    log_p, reference = torch.tensor([-1.0, -2, -3, -4, -5]), torch.tensor([-4.0, -6.0])
    step = Step({"forget": forget}, {"forget": reference})
    terms = build(config).terms(step, {LogP("forget"): log_p})
    lengths = torch.tensor([2.0, 3.0]) if by_length else 1
    expected = preference.npo(torch.tensor([-3.0, -12.0]) / lengths, reference / lengths, beta=config.beta)
    torch.testing.assert_close(terms["npo"], expected.mean())


def test_ascent_family_by_hand():
    for schema, retain_term in ((GradAscent, None), (GradDiff, "nll"), (KLGA, "kl")):
        objective, step, rows = case(schema(name="any label", forget_weight=2, retain_weight=3))
        of, reference = head(), head(seed=7)
        forget_nll = naive.token_nll(of(rows["forget"].h_ND), rows["forget"].labels_N).mean()
        expected = -2 * forget_nll
        if retain_term == "nll":
            expected += 3 * naive.token_nll(of(rows["retain"].h_ND), rows["retain"].labels_N).mean()
        if retain_term == "kl":
            z = reference(rows["retain"].reference_ND)
            expected += 3 * naive.kl_from_reference(of(rows["retain"].h_ND), z).mean()
        terms, _ = through_engine(objective, step, rows, of, reference, chunk=4)
        torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_asks_for_all_that_it_reads(name):
    """Readings it did not ask for would be missing here, and roles it needs not would be in the step."""
    objective, step, rows = case(LOSSES[name])
    assert set(rows) == set(objective.needs.roles)
    assert "loss" in naively(objective, step, rows, head(), head(seed=7))[0]


def test_an_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match="no loss of kind"):
        build(LossConfig(name="hope"))


def test_a_fixed_target_has_no_gradient_to_go_through():
    with pytest.raises(ValueError, match="gradient_through=both needs"):
        MariConfig(name="mari", estimator=Estimator.context, gradient_through=GradientThrough.both)
