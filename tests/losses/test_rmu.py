"""RMU is its paper's formula, in float64, with the gradient of one graph."""

import pytest
import torch
from engine_cases import LENGTHS, case, head, through_engine

from mari_cli.errors import UserError
from mari_cli.losses.rmu import RMUConfig, direction
from mari_cli.models.backbone import choose_layer


def test_rmu_is_the_papers_formula():
    config = RMUConfig(name="rmu", steering=2.0, retain_weight=3.0, seed=5)
    objective, step, rows = case(config)
    h = {role: r.layer_ND.clone().requires_grad_() for role, r in rows.items()}
    targets = {
        "forget": (2.0 * direction(5, seed=5)).expand_as(h["forget"]),
        "retain": step.reference_layer["retain"],
    }
    mean = {}
    for role, target_ND in targets.items():
        parts = zip(h[role].split(LENGTHS[role]), target_ND.split(LENGTHS[role]), strict=True)
        values = [
            sum((x - t).norm() ** 2 for x, t in zip(*part, strict=True)) / len(part[0]) for part in parts
        ]
        mean[role] = sum(values) / len(values)
    expected = mean["forget"] + 3.0 * mean["retain"]
    gradients = torch.autograd.grad(expected, list(h.values()))
    terms, found = through_engine(objective, step, rows, head(), head(seed=7), chunk=3)
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=1e-12, atol=0)
    for role, gradient in zip(h, gradients, strict=True):
        torch.testing.assert_close(found[f"{role} layer"], gradient, rtol=1e-12, atol=0)
        assert not found[role].any()
    assert not found["weight"].any()


def test_the_direction_is_one_for_all_steps_and_of_length_one():
    assert torch.equal(direction(7, seed=1), direction(7, seed=1))
    assert not torch.equal(direction(7, seed=1), direction(7, seed=2))
    assert direction(7, seed=1).norm().item() == pytest.approx(1)
    assert (direction(7, seed=1) >= 0).all()


def test_a_layer_that_the_model_has_not_is_refused():
    class Model:
        class config:
            @staticmethod
            def get_text_config():
                return type("Text", (), {"num_hidden_layers": 4})

    assert choose_layer(Model, None) == 2
    assert choose_layer(Model, 4) == 4
    with pytest.raises(UserError, match="layer 5 is read, but the model has 4"):
        choose_layer(Model, 5)
