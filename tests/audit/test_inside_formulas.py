"""What is read inside a model, and how two models are told apart, against the naive formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mari_cli.audit import answer_tokens, distance, logit_lens, patching, probe, traces
from mari_cli.audit.attack import Case
from mari_cli.models.layers import layer_states, readable_layers, states_with


@pytest.fixture
def some(world):
    return world.models["before"], world.evidence.items[:5]


def naive_log_p(lm, item):
    """[T, V] at the targets, from the model's own logits."""
    logits = lm.model(input_ids=torch.tensor([item.input_ids])).logits[0]
    return logits[item.supervised_from - 1 : -1].log_softmax(-1)


def test_the_last_layer_through_the_lens_says_what_the_model_says(some):
    lm, items = some
    found = logit_lens.read_layers(lm, items)
    assert found.shape == (2, sum(item.num_targets for item in items))
    expected = torch.cat(
        [
            naive_log_p(lm, i).gather(1, torch.tensor(i.input_ids[i.supervised_from :]).unsqueeze(1))
            for i in items
        ]
    )
    assert torch.allclose(found[-1], expected.squeeze(1), atol=1e-4)


def test_the_first_layer_through_the_lens_is_its_output_through_norm_and_head(some):
    lm, items = some
    item = items[0]
    states = lm.model(input_ids=torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
    at = slice(item.supervised_from - 1, -1)
    assert torch.allclose(layer_states(lm, [item])[0], states[1][0, at], atol=1e-5)
    log_p = lm.model.lm_head(lm.model.transformer.ln_f(states[1][0, at])).log_softmax(-1)
    wanted = log_p.gather(1, torch.tensor(item.input_ids[item.supervised_from :]).unsqueeze(1)).squeeze(1)
    assert torch.allclose(logit_lens.read_layers(lm, [item])[0], wanted, atol=1e-4)


def test_a_model_that_goes_on_from_its_own_layers_says_the_same(some):
    lm, items = some
    states = layer_states(lm, items)
    found = patching.go_on(lm, states, items)
    assert torch.allclose(found, logit_lens.read_layers(lm, items)[-1].expand_as(found), atol=1e-4)


def test_a_patched_layer_changes_what_comes_after_it(some, world):
    lm, items = some
    other = layer_states(world.models["gold"], items)
    last = states_with(lm, items, 1, other[1])
    assert torch.allclose(last, lm.model.transformer.ln_f(other[1]), atol=1e-5)
    assert not torch.allclose(states_with(lm, items, 0, other[0]), last, atol=1e-2)


def test_depth_is_the_share_of_golds_drop():
    def details(now):
        curves = {"target": [0.0, 0.0, 0.0], "model": now, "gold": [0.0, -1.0, -3.0]}
        return {role: {"log_probability_by_layer": curve} for role, curve in curves.items()}

    assert patching.depth(details([0.0, -1.0, -3.0])) == 1
    assert patching.depth(details([0.0, 0.0, 0.0])) == 0
    assert patching.depth(details([-9.0, -2.0, 0.0])) == pytest.approx(1 / 4)  # 1 of 1 and 0 of 3
    assert patching.depth({"model": {"log_probability_by_layer": [0.0]}}) is None


def test_the_tokens_of_a_value_are_found(world):
    lm, evidence = world.models["before"], world.evidence
    places = answer_tokens.value_places(lm, evidence)
    assert places[0] == [0, 1]  # two words; the full stop and the end are not asked for
    assert answer_tokens.places_in(lm, evidence.items[0], None) == [0, 1, 2, 3]
    assert answer_tokens.places_in(lm, evidence.items[0], "elsewhere") == [0, 1, 2, 3]


@pytest.mark.parametrize("ties", [False, True])
def test_a_probe_finds_what_is_linear_and_nothing_else(ties):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 8, generator=draw)
    answers = [i % 12 for i in range(240)]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw))[0]
    told = probe.probe((rows[answers] @ turn).double(), answers, rows, folds=5, ridge=1e-3)
    assert sum(told) / 240 > 0.99
    noise = torch.zeros(240, 8) if ties else torch.randn(240, 8, generator=draw)
    assert sum(probe.probe(noise.double(), answers, rows, folds=5, ridge=0.1)) / 240 == pytest.approx(
        0.5, abs=0.1
    )
    assert probe.probe(noise.double(), [3] * 240, rows, folds=5, ridge=0.1) == [0.5] * 240


def test_a_classifier_tells_what_differs_and_nothing_else():
    dice = np.random.default_rng(0)
    one, other = dice.normal(size=(400, 4)), dice.normal(size=(400, 4))
    assert np.mean(traces.told_apart(one, other, folds=5, penalty=1.0)) == pytest.approx(0.5, abs=0.15)
    assert np.mean(traces.told_apart(one, one, folds=5, penalty=1.0)) == 0.5
    assert np.mean(traces.told_apart(one, other + np.array([9.0, 0, 0, 0]), folds=5, penalty=1.0)) > 0.98


def test_what_the_classifier_sees_of_an_answer():
    log_p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    seen = traces.seen_of(log_p, torch.tensor([0, 1]), top=2)
    first, second = -math.log(0.5), -math.log(0.1)
    entropies = [-sum(p * math.log(p) for p in of) for of in ((0.5, 0.3, 0.2), (0.1, 0.1, 0.8))]
    expected = [(first + second) / 2, first, second, first, sum(entropies) / 2, entropies[0], 0.5]
    expected += [
        math.log(0.5),
        math.log(0.3),
        (math.log(0.5) + math.log(0.8)) / 2,
        (math.log(0.3) + math.log(0.1)) / 2,
    ]
    assert seen == pytest.approx(expected)


def test_the_gap_is_that_of_both_directions(world):
    one, other = world.models["before"], world.models["gold"]
    evidence = replace(world.evidence, chosen=[0, 5])
    case = Case("distance", "gap", "", {"samples": 2, "max_new_tokens": 3}, 1, beside=("gold",))
    expected = [0.0, 0.0]
    for drawing, reading in ((one, other), (other, one)):
        for number, item in enumerate(distance.draw(drawing, evidence, samples=2, most=3)):
            ids = torch.tensor(item.input_ids[item.supervised_from :]).unsqueeze(1)
            own, others = (naive_log_p(lm, item).gather(1, ids).mean().item() for lm in (drawing, reading))
            expected[number // 2] += (own - others) / 2
    assert distance.gaps(one, other, case, evidence) == pytest.approx(expected, abs=1e-4)
    assert distance.gaps(one, one, case, evidence) == [0.0, 0.0]


def test_layers_are_found(world):
    assert readable_layers(world.models["before"].model) == 2
