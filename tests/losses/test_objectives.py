"""Every loss as a function of logits: closed forms, gradcheck in float64, invariance."""

import math
from dataclasses import replace

import pytest
import torch

from mari_cli.config import (
    AscentConfig,
    DPOConfig,
    Estimator,
    GradientThrough,
    LossConfig,
    MariConfig,
    NPOConfig,
    RetainLoss,
)
from mari_cli.losses import likelihood, preference
from mari_cli.losses.objective import Positions, Reference, Step, build

V = 6
LOSSES = {
    "mari_pooled": MariConfig(name="mari", estimator=Estimator.pooled, gradient_through=GradientThrough.both),
    "mari_token": MariConfig(name="mari", estimator=Estimator.token, gradient_through=GradientThrough.both),
    "mari_context": MariConfig(
        name="mari", estimator=Estimator.context, gradient_through=GradientThrough.both
    ),
    "grad_ascent": AscentConfig(name="grad_ascent"),
    "grad_diff": AscentConfig(name="grad_diff", retain_weight=0.7),
    "kl_ga": AscentConfig(name="kl_ga", forget_weight=0.3),
    "npo": NPOConfig(name="npo", retain_loss=RetainLoss.nll),
    "npo_by_length": NPOConfig(name="npo", length_normalised=True, beta=1.0),
    "dpo": DPOConfig(name="dpo"),
}


def logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positions(logits_NV: torch.Tensor, lengths: list[int], seed: int) -> Positions:
    labels = torch.randint(V, (len(logits_NV),), generator=torch.Generator().manual_seed(seed))
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    index = torch.cat([torch.arange(length) for length in lengths])
    return Positions(logits_NV, labels, sequence, index, len(lengths))


def step(f: torch.Tensor, r: torch.Tensor, a: torch.Tensor) -> Step:
    forget, retain, alternative = positions(f, [2, 3], 1), positions(r, [3, 1, 3], 2), positions(a, [1, 1], 3)
    generator = torch.Generator().manual_seed(9)
    reference = Reference(
        retain_NV=logits(7, 12),
        forget=replace(forget, logits_NV=logits(5, 11)),
        alternative=replace(alternative, logits_NV=logits(2, 13)),
        retain_states_ND=torch.randn(7, 4, generator=generator, dtype=torch.float64),
        forget_states_MD=torch.randn(5, 4, generator=generator, dtype=torch.float64),
    )
    return Step(forget, retain, alternative, reference)


def inputs() -> tuple[torch.Tensor, ...]:
    return tuple(logits(n, seed).requires_grad_() for n, seed in ((5, 1), (7, 2), (2, 3)))


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    objective, _ = build(LOSSES[name])
    assert torch.autograd.gradcheck(lambda *z: objective(step(*z))["loss"], inputs(), atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("estimator", Estimator)
def test_through_forget_the_marginal_term_leaves_the_retain_side_alone(estimator):
    config = MariConfig(name="mari", estimator=estimator, retain_weight=0)
    objective, _ = build(config)
    f, r, a = inputs()
    objective(step(f, r, a))["loss"].backward()
    assert f.grad.abs().sum() > 0
    assert r.grad.abs().sum() == 0


def test_the_retain_term_of_mari_is_kl_from_the_reference():
    objective, _ = build(MariConfig(name="mari", mari_weight=0, retain_weight=2))
    s = step(*inputs())
    p, q = s.retain.logits_NV.log_softmax(-1), s.reference.retain_NV.log_softmax(-1)
    expected = 2 * torch.nn.functional.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(objective(s)["loss"], expected, rtol=1e-12, atol=0)


def test_kl_vanishes_at_the_reference():
    z = logits(4, 0)
    torch.testing.assert_close(likelihood.kl_from_reference(z, z), torch.zeros(4, dtype=torch.float64))


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


def test_dpo_at_the_reference_is_log_two():
    a, b = torch.tensor([-3.0]), torch.tensor([-9.0])
    assert preference.dpo(a, a, b, b, beta=0.1).item() == pytest.approx(math.log(2))


def test_sequence_log_probability_sums_over_the_tokens_of_its_sequence():
    z = logits(5, 0)
    p = positions(z, [2, 3], 0)
    by_token = z.log_softmax(-1)[torch.arange(5), p.labels_N]
    torch.testing.assert_close(p.log_probability_S(), torch.stack([by_token[:2].sum(), by_token[2:].sum()]))
    normalised = torch.stack([by_token[:2].mean(), by_token[2:].mean()])
    torch.testing.assert_close(p.log_probability_S(length_normalised=True), normalised)


def test_ascent_family_by_hand():
    f, r, a = inputs()
    s = step(f, r, a)
    forget, retain = s.forget.nll(), s.retain.nll()
    kl = likelihood.kl_from_reference(r, s.reference.retain_NV).mean()
    expected = {
        "grad_ascent": -2 * forget,
        "grad_diff": -2 * forget + 3 * retain,
        "kl_ga": -2 * forget + 3 * kl,
    }
    for name, value in expected.items():
        objective, _ = build(AscentConfig(name=name, forget_weight=2, retain_weight=3))
        torch.testing.assert_close(objective(s)["loss"], value, rtol=1e-12, atol=0)


def test_an_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match="no loss named"):
        build(LossConfig(name="hope"))
