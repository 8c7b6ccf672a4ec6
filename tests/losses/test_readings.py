"""Readings that no formula of its own fixes: a toy loss of each, through the engine and from full logits."""

from dataclasses import dataclass

import pytest
import torch
from engine_cases import case, gap, head, naively, through_engine

from mari_cli.losses.base import LossConfig
from mari_cli.losses.objective import Needs, Objective, step_mean
from mari_cli.losses.readings import KL, HiddenStates, LogP, TargetCrossEntropy


@dataclass(kw_only=True)
class Toy(LossConfig):
    """A loss that is whatever its test says."""

    kind: str = "toy"
    made: Objective

    def objective(self) -> Objective:
        return self.made


def weighted(step, readings):
    """Gradient ascent whose tokens weigh p^α, as WGA has it: the weights carry no gradient."""
    log_p_N = readings[LogP("forget")]
    return {"loss": (log_p_N.detach().exp() ** 0.7 * log_p_N).mean()}


def saturated(step, readings):
    """Weights that carry a gradient too."""
    log_p_N = readings[LogP("forget")]
    return {"loss": ((1 - log_p_N.exp()) ** 2 * log_p_N).sum()}


def target(step, readings):
    return {"loss": step_mean(TargetCrossEntropy("forget", 3.0), step, readings)}


def squared_kl(step, readings):
    return {"loss": (readings[KL("retain")] ** 2).sum()}


def steered(step, readings):
    """States of one role away from the reference's, beside a reading of the head."""
    apart_ND = readings[HiddenStates("forget", 1)] - step.reference_layer["forget"]
    return {"loss": apart_ND.pow(3).sum() - step_mean(LogP("retain"), step, readings)}


P, KL_RETAIN = LogP("forget"), KL("retain")
TOYS = {
    "per-token weights": Objective(weighted, Needs((P,), nonlinear=(P,))),
    "weights with a gradient": Objective(saturated, Needs((P,), nonlinear=(P,))),
    "a target distribution": Objective(target, Needs((TargetCrossEntropy("forget", 3.0),))),
    "a function of a divergence": Objective(squared_kl, Needs((KL_RETAIN,), nonlinear=(KL_RETAIN,))),
    "hidden states": Objective(
        steered, Needs((HiddenStates("forget", 1), LogP("retain")), reference_layer=("forget",))
    ),
}


@pytest.mark.parametrize("kind", ["plain", "all"])
@pytest.mark.parametrize("name", TOYS)
def test_a_toy_loss_of_any_reading_is_the_naive_formula_in_float64(name, kind):
    objective, step, rows = case(Toy(name="any", made=TOYS[name]))
    heads = head(kind), head(kind, seed=7)
    terms, gradients = naively(objective, step, rows, *heads)
    for chunk in (1, 3, 100):
        found, found_gradients = through_engine(objective, step, rows, *heads, chunk=chunk)
        assert gap(found, terms) < 1e-12
        assert gap(found_gradients, gradients) < 1e-12


def test_lowered_by_nothing_the_target_is_the_reference_and_its_entropy_is_the_least_loss():
    made = Objective(
        lambda step, read: {"loss": read[TargetCrossEntropy("forget")].sum()},
        Needs((TargetCrossEntropy("forget"),)),
    )
    objective, step, rows = case(Toy(name="any", made=made))
    rows["forget"] = type(rows["forget"])(
        rows["forget"].h_ND, rows["forget"].labels_N, rows["forget"].h_ND.clone()
    )
    terms, gradients = through_engine(objective, step, rows, head(), head(), chunk=3)
    log_p = head()(rows["forget"].h_ND).log_softmax(-1)
    torch.testing.assert_close(terms["loss"], -(log_p.exp() * log_p).sum().detach())
    assert gradients["forget"].abs().max() < 1e-14
