"""What holds the retain side, beside any loss: each term is its formula in float64, over targets alone."""

import math
from dataclasses import replace

import pytest
import torch
from engine_cases import LENGTHS, case, head, through_engine

from mari_cli.losses.base import HeldLossConfig, RetainLoss
from mari_cli.losses.mari import MariConfig, RetainDivergence
from mari_cli.losses.preference import NPOConfig
from mari_cli.losses.simnpo import SimNPOConfig
from mari_cli.losses.undial import UndialConfig


def by_hand(retain, rows, step, of, reference, h, layer):
    """The term from full logits, with its graph at ``h`` and ``layer``."""
    log_p, labels = of(h).log_softmax(-1), rows["retain"].labels_N
    if retain is RetainLoss.nll:
        return -log_p.gather(1, labels[:, None]).mean()
    if retain is RetainLoss.states:
        parts = zip(
            layer.split(LENGTHS["retain"]),
            step.reference_layer["retain"].split(LENGTHS["retain"]),
            strict=True,
        )
        means = [
            sum((x - y).norm() ** 2 for x, y in zip(*part, strict=True)) / len(part[0]) for part in parts
        ]
        return sum(means) / len(means)
    p, q = log_p.exp(), reference(rows["retain"].reference_ND).softmax(-1).detach()
    if retain is RetainLoss.kl:
        return (q * (q / p).log()).sum(-1).mean()
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) / 2 + (q * (q / m).log()).sum(-1) / 2).mean()


LOSSES = {
    "npo": NPOConfig(name="npo", forget_weight=0),
    "simnpo": SimNPOConfig(name="simnpo", forget_weight=0),
    "undial": UndialConfig(name="undial", forget_weight=0, retain_loss=RetainLoss.nll),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("retain", [r for r in RetainLoss if r is not RetainLoss.none])
def test_every_retain_term_stands_beside_every_loss(name, retain):
    objective, step, rows = case(replace(LOSSES[name], retain_loss=retain, retain_weight=0.7))
    of, reference = head("all"), head("all", seed=7)
    h = rows["retain"].h_ND.clone().requires_grad_()
    layer = None
    if retain is RetainLoss.states:
        layer = rows["retain"].layer_ND.clone().requires_grad_()
    expected = 0.7 * by_hand(retain, rows, step, of, reference, h, layer)
    terms, found = through_engine(objective, step, rows, of, reference, chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    at, key = (h, "retain") if layer is None else (layer, "retain layer")
    (gradient,) = torch.autograd.grad(expected, [at])
    torch.testing.assert_close(found[key], gradient, rtol=1e-10, atol=1e-15)


def test_the_jensen_shannon_term_is_nothing_at_the_reference_and_never_more_than_log_two():
    objective, step, rows = case(
        SimNPOConfig(name="simnpo", forget_weight=0, retain_loss=RetainLoss.jensen_shannon)
    )
    retain = rows["retain"]
    same = {**rows, "retain": replace(retain, reference_ND=retain.h_ND.clone())}
    terms, found = through_engine(objective, step, same, head(), head(), chunk=3)
    assert terms["retain_jensen_shannon"].item() == 0
    assert found["retain"].abs().max() < 1e-15
    far = {**rows, "retain": replace(retain, h_ND=40 * retain.h_ND, reference_ND=-40 * retain.h_ND)}
    terms, found = through_engine(objective, step, far, head(), head(), chunk=3)
    assert terms["retain_jensen_shannon"].item() == pytest.approx(math.log(2))
    assert torch.isfinite(found["retain"]).all()


def test_a_layer_is_asked_for_where_states_are_held_and_refused_where_they_are_not():
    config = NPOConfig(name="npo", retain_loss=RetainLoss.states, retain_layer=3)
    assert config.objective().needs.states.layer == 3
    assert config.objective().needs.reference_layer == ("retain",)
    with pytest.raises(ValueError, match=r"loss\.retain_layer=3 needs loss\.retain_loss=states"):
        HeldLossConfig(name="any", retain_layer=3)


def test_mari_takes_any_retain_term_but_none_and_each_way_to_say_it_once():
    config = MariConfig(name="mari", retain_loss=RetainLoss.states, retain_layer=3)
    assert config.objective().needs.states.layer == 3
    assert config.objective().needs.reference_layer == ("retain",)
    for wrong, told in (
        ({"retain_loss": RetainLoss.none}, "loss.retain_weight=0 leaves out the term"),
        ({"retain_loss": RetainLoss.nll, "retain_nll_weight": 1.0}, "for another loss.retain_loss than nll"),
        (
            {"retain_loss": RetainLoss.nll, "retain_divergence": RetainDivergence.reverse},
            "needs loss.retain_loss=kl",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            MariConfig(name="mari", **wrong)
