"""The measures of the attacks, against their definitions."""

import itertools
import math
import random

import pytest
import torch

from mari_cli.audit.attack import AuditAttack, Case, CaseValues
from mari_cli.audit.card import (
    AS_BEFORE,
    AS_GOLD,
    LESS,
    NO_POWER,
    TOO_FEW,
    CardRow,
    card_row,
    conclusion,
    least_items,
    sign_test,
    worst,
)
from mari_cli.audit.quantisation import rounded_weights
from mari_cli.audit.relearning import area, looks_at, steps_to_half
from mari_cli.audit.sampling import leak_at
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import How


@pytest.mark.parametrize(("n", "c", "k"), [(5, 0, 3), (5, 2, 1), (5, 2, 3), (6, 6, 2), (4, 1, 4)])
def test_leak_at_k_is_the_share_of_all_draws_of_k_that_hold_a_right_one(n, c, k):
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert leak_at(k, n, c) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_leak_at_k_has_no_bias():
    dice, p, n, k = random.Random(0), 0.2, 8, 4
    mean = sum(leak_at(k, n, sum(dice.random() < p for _ in range(n))) for _ in range(20_000)) / 20_000
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=0.01)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_are_rounded_as_in_the_naive_formula(bits):
    weight = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded, most = rounded_weights(weight, bits=bits, group=4), 2 ** (bits - 1) - 1
    for row in range(3):
        for start in (0, 4, 8):
            group = weight[row, start : start + 4]
            scale = max(abs(float(value)) for value in group) / most
            for value, found in zip(group, rounded[row, start : start + 4], strict=True):
                assert float(found) == pytest.approx(round(float(value) / scale) * scale, abs=1e-12)
    assert torch.allclose(rounded_weights(rounded, bits=bits, group=4), rounded)
    assert rounded_weights(torch.zeros(2, 4), bits=4, group=4).eq(0).all()


def test_the_area_below_a_curve():
    steps = looks_at(16)
    assert steps == [0, 1, 2, 4, 8, 16]
    assert looks_at(20)[-1] == 20
    assert looks_at(1) == [0, 1]
    assert area(steps, [0.0] * 6) == 0
    assert area(steps, [1.0] * 6) == pytest.approx(1)
    assert area([0, 1], [0.0, 1.0]) == pytest.approx(0.5)
    late, early = [0, 0, 0, 0, 0, 1.0], [0, 1.0, 1, 1, 1, 1]
    assert area(steps, late) < area(steps, early)
    x = [math.log2(1 + step) for step in steps]
    naive = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(x, x[1:], late, late[1:], strict=False)) / x[-1]
    assert area(steps, late) == pytest.approx(naive)


def test_steps_to_half_of_what_the_target_knew():
    detail = {"steps": [0, 1, 2], "recall": [0.0, 0.4, 0.6]}
    assert steps_to_half(detail, 1.0) == 2
    assert steps_to_half(detail, 0.6) == 1
    assert steps_to_half(detail, 1.4) is None


def test_the_sign_test_is_exact():
    p_value, apart = sign_test([1.0] * 5 + [0.0], [0.0] * 5 + [0.0])
    assert p_value == pytest.approx(0.5**5)
    assert apart == pytest.approx(5 / 6)
    assert sign_test([0.0, None], [0.0, 1.0])[0] == 1.0


@pytest.mark.parametrize(("tests", "alpha"), [(1, 0.05), (22, 0.05), (10, 0.01), (64, 0.5)])
def test_with_one_item_less_no_verdict_can_come(tests, alpha):
    least = least_items(tests, alpha)
    assert sign_test([1.0] * least, [0.0] * least)[0] < alpha / tests
    assert sign_test([1.0] * (least - 1), [0.0] * (least - 1))[0] >= alpha / tests


def row(now, gold=None, before=None, *, tests=10, case="c"):
    models = {"target": before, "model": now, "gold": gold}
    found = {role: CaseValues(list(values)) for role, values in models.items() if values is not None}
    attack = AuditAttack("a", "comes back", None, None)  # type: ignore[arg-type]
    given = Case("a", case, "", {}, 1, group="g")
    return card_row(attack, given, found, tests=tests, alpha=0.05, margin=0.05, how=How(50))


def test_verdicts():
    assert row([1.0] * 20, gold=[0.0] * 20).verdict == "comes back"
    assert row([0.0] * 20, gold=[0.0] * 20).verdict == AS_GOLD
    assert row([0.0] * 20, gold=[1.0] * 20).verdict == AS_GOLD
    assert row([1.0] * 3, gold=[0.0] * 3).verdict == TOO_FEW
    assert row([0.02] * 30, gold=[0.0] * 30).verdict == AS_GOLD  # below the margin
    assert row([0.0] * 20, gold=[0.0] * 20, before=[1.0] * 20).verdict == AS_GOLD
    assert row([1.0] * 20, gold=[0.0] * 20, before=[0.0] * 20).verdict == "comes back"
    assert row([0.0] * 20, before=[1.0] * 20).verdict == LESS
    assert row([1.0] * 20, before=[1.0] * 20).verdict == AS_BEFORE
    assert row([1.0] * 20).verdict == ""


def test_an_attack_that_does_not_tell_before_from_gold_has_no_power():
    assert row([0.0] * 20, gold=[0.0] * 20, before=[0.0] * 20).verdict == NO_POWER
    assert row([0.9] * 20, gold=[0.9] * 20, before=[0.9] * 20).verdict == NO_POWER  # all guess it
    assert row([0.0] * 20, gold=[0.0] * 20, before=[0.0] * 19 + [1.0]).verdict == NO_POWER
    assert row([0.0] * 20, before=[0.0] * 20).verdict == NO_POWER
    assert row([0.0] * 3, gold=[0.0] * 3, before=[0.0] * 3).verdict == TOO_FEW
    weak = [row([0.0] * 20, gold=[0.0] * 20, before=[0.0] * 20)]
    assert conclusion(weak, gold=True).startswith("nothing can be told: of 1 case 0 have too few items")
    assert "no model before" in conclusion([row([0.0] * 20, gold=[0.0] * 20)], gold=True)


def test_the_worst_case_of_a_group_is_shown():
    mild, bad = row([0.0] * 20, gold=[0.0] * 20, case="mild"), row([1.0] * 20, gold=[0.0] * 20, case="bad")
    assert worst([mild, bad]) == [bad]


def test_where_the_model_before_knew_nothing_no_attack_clears_the_model_now():
    def row(before: float) -> CardRow:
        return CardRow("plain", "plain", "asked", {"target": Estimate(value=before, n=8)}, AS_GOLD, 1.0)

    assert "recalls none of the measured items" in conclusion([row(0.0)], gold=True)
    assert conclusion([row(0.5)], gold=True) == "none of 1 case brings back more than from gold"
