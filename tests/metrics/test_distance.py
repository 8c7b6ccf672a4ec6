"""How far from gold, in one figure, and how far unseen data has moved."""

from functools import partial
from math import isnan, nan

import numpy as np
import pytest

from mari_cli.metrics import distance as of_distance
from mari_cli.metrics.corpora import DISTANCE, FORGET_SIDE, KEPT_SIDE
from mari_cli.metrics.drift import drifts
from mari_cli.metrics.items import ItemValues, take_apart
from mari_cli.metrics.statistics import How
from mari_cli.suites.registry import METRICS, describe

choose_metrics, distances_to_gold, difference_of_distances = (
    partial(function, metrics=METRICS)
    for function in (
        of_distance.choose_metrics,
        of_distance.distances_to_gold,
        of_distance.difference_of_distances,
    )
)


def made(metric, items):
    return take_apart(describe(metric), items)


HOW = How(resamples=300)
N = 120


def model(forget_nll: float, right: float, known: float, *, kept: float = 1.0, seed: int = 0):
    """Items of a model by its mean forget loss, its share of right forget tokens, of known unique facts, and
    of retain tokens; the same items are hard for every model."""
    hard = np.random.default_rng(9).uniform(size=N)
    unseen = np.random.default_rng(8).gamma(4.0, 0.25, size=N)
    noise = np.random.default_rng(seed).normal(0, 0.02, size=(3, N))
    rows = []
    for i in range(N):
        nll = max(0.0, forget_nll * (0.5 + hard[i]) + noise[0, i])
        values = {"answer_nll": nll, "tokens": 10.0, "exact_memorization": min(1.0, right + 0.2 * hard[i])}
        values |= {"exact_match": float(hard[i] < right), "recalled": float(hard[i] < known)}
        values |= {"verbatim_rouge_l": min(1.0, right + noise[1, i])}
        rows.append(
            ItemValues(model="m", set="forget", item=i, fact="unique" if i % 2 else "shared", values=values)
        )
        share = {"exact_match": float(hard[i] < kept), "exact_memorization": kept, "tokens": 10.0}
        rows.append(ItemValues(model="m", set="retain", item=i, values=share))
        loss = {"answer_nll": unseen[i] + noise[2, i]}
        rows.append(ItemValues(model="m", set="holdout", item=i, values=loss))
    return rows


TARGET, GOLD = model(0.02, 0.95, 1.0), model(1.0, 0.3, 0.0, seed=1)
ENTERED = choose_metrics(TARGET, GOLD, HOW)


def test_what_was_measured_and_tells_target_from_gold_enters():
    assert ENTERED.forget == (
        "forget/answer_nll",
        "forget/token_accuracy",
        "forget/exact_match",
        "forget/verbatim_rouge_l",
        "privacy/loss_auc",
        "facts/unique_recall",
    )
    assert ENTERED.kept == ("retain/exact_match", "retain/token_accuracy", "facts/shared_recall")
    assert ENTERED.left_out == {
        "retain/verbatim_rouge_l": "not measured",
        "tofu/model_utility": "not measured",
    }


def test_the_target_is_at_1_and_gold_at_0_of_the_forget_side_whatever_is_drawn():
    found = distances_to_gold({"target": TARGET, "gold": GOLD}, ENTERED, HOW)
    of_target, of_gold = found["target"][FORGET_SIDE], found["gold"][FORGET_SIDE]
    assert (of_target.value, of_target.low, of_target.high) == (1, 1, 1)
    assert (of_gold.value, of_gold.low, of_gold.high) == (0, 0, 0)
    assert found["target"][KEPT_SIDE].value == 0
    assert found["target"][DISTANCE].value == 1


def test_a_distance_is_the_mean_of_its_ratios_by_hand():
    own = model(0.4, 0.5, 0.3, kept=0.8, seed=2)
    found = distances_to_gold({"target": TARGET, "gold": GOLD, "unlearned": own}, ENTERED, HOW)["unlearned"]

    def value(name, items):
        return made(name, items).value

    terms = [
        abs(value(name, own) - value(name, GOLD)) / abs(value(name, TARGET) - value(name, GOLD))
        for name in ENTERED.forget
    ]
    losses = [max(0, value(name, TARGET) - value(name, own)) / value(name, TARGET) for name in ENTERED.kept]
    assert found[FORGET_SIDE].value == pytest.approx(np.mean(terms), abs=1e-12)
    assert found[KEPT_SIDE].value == pytest.approx(np.mean(losses), abs=1e-12)
    assert found[DISTANCE].value == pytest.approx(np.mean(terms) + np.mean(losses), abs=1e-12)
    for estimate in found.values():
        assert 0 <= estimate.low < estimate.value < estimate.high
        assert estimate.n == 3 * N


def test_what_is_kept_better_than_before_is_no_merit_and_makes_up_for_nothing():
    before = model(0.02, 0.95, 1.0, kept=0.5)
    entered = choose_metrics(before, GOLD, HOW)
    better = distances_to_gold({"target": before, "gold": GOLD, "unlearned": TARGET}, entered, HOW)
    assert better["unlearned"][KEPT_SIDE].value == 0


def test_past_gold_is_as_far_as_short_of_it():
    target, gold = model(0.0, 0.9, 1.0), model(1.0, 0.3, 0.0)
    entered = choose_metrics(target, gold, HOW)
    only = type(entered)(("forget/answer_nll",), (), {})
    found = {
        nll: distances_to_gold({"target": target, "gold": gold, "x": model(nll, 0.3, 0.0)}, only, HOW)["x"]
        for nll in (0.8, 1.2)
    }
    assert found[0.8][FORGET_SIDE].value == pytest.approx(found[1.2][FORGET_SIDE].value, rel=0.02)
    assert KEPT_SIDE not in found[0.8]
    assert DISTANCE not in found[0.8]


def test_near_gold_the_interval_holds_the_value_and_begins_at_0():
    near = model(1.0, 0.3, 0.0, seed=5)
    distance = distances_to_gold({"target": TARGET, "gold": GOLD, "x": near}, ENTERED, HOW)["x"][FORGET_SIDE]
    assert distance.low == 0
    assert 0 < distance.value < distance.high < 0.1


def test_an_interval_down_to_gold_begins_at_0_and_not_at_a_rounding():
    value = 0.1 + 0.2  # 5.6e-17 above 0.3
    assert of_distance._within(value, np.full(10, 0.3), n=5, confidence=0.95).low == 0.0
    assert of_distance._within(value, np.full(10, 0.2), n=5, confidence=0.95).low == pytest.approx(0.1)


def test_a_metric_that_does_not_tell_target_from_gold_is_left_out_and_said():
    rng = np.random.default_rng(4)
    twin = [
        ItemValues(
            **{
                **vars(row),
                "values": {
                    name: value if name in ("tokens", "recalled") else value + rng.normal(0, 1e-4)
                    for name, value in row.values.items()
                },
            }
        )
        for row in TARGET
    ]
    entered = choose_metrics(TARGET, twin, HOW)
    assert entered.forget == ()
    assert entered.left_out["forget/answer_nll"] == "target and gold do not differ clearly in it"
    found = distances_to_gold({"target": TARGET, "gold": twin}, entered, HOW)
    assert found["target"].keys() == {KEPT_SIDE}


def test_what_the_target_has_none_of_cannot_be_lost():
    none = model(0.02, 0.95, 1.0, kept=-1.0)
    left_out = choose_metrics(none, GOLD, HOW).left_out
    assert left_out["retain/exact_match"] == "0 for the target: there is nothing to lose"


@pytest.mark.parametrize(("right", "enters"), [(1, False), (3, False), (5, True), (60, True)])
def test_what_the_target_hardly_has_is_no_loss_that_its_items_can_show(right, enters):
    """A target that writes one passage of 120 word for word: to write none is not the loss of everything."""

    def with_right(number):
        return [
            ItemValues(
                **{**vars(row), "values": row.values | {"exact_match": float(row.item < number)}}
                if row.set == "retain"
                else vars(row)
            )
            for row in TARGET
        ]

    target = with_right(right)
    entered = choose_metrics(target, GOLD, HOW)
    assert ("retain/exact_match" in entered.kept) == enters
    assert enters or "no loss can be seen" in entered.left_out["retain/exact_match"]
    found = distances_to_gold({"target": target, "gold": GOLD, "x": with_right(0)}, entered, HOW)["x"]
    assert found[KEPT_SIDE].value == pytest.approx(1 / 3 if enters else 0.0)
    assert found[DISTANCE].high is not None


def test_a_value_that_is_not_finite_makes_no_distance_of_the_rest():
    broken = [ItemValues(**{**vars(row), "values": row.values | {"answer_nll": nan}}) for row in GOLD]
    found = distances_to_gold({"target": TARGET, "gold": GOLD, "x": broken}, ENTERED, HOW)["x"]
    assert found.keys() == {DISTANCE, FORGET_SIDE, KEPT_SIDE}
    assert all(isnan(estimate.value) and estimate.low is None for estimate in found.values())


def test_the_interval_covers_the_distance_of_the_population():
    """Of models at a known distance, with few items: what is drawn strays, and the interval says so."""
    rng = np.random.default_rng(0)

    def of(nlls):
        return [
            ItemValues(model="m", set="forget", item=i, values={"answer_nll": float(x)})
            for i, x in enumerate(nlls)
        ]

    entered = type(ENTERED)(("forget/answer_nll",), (), {})
    held = 0
    for _ in range(100):
        hard = rng.gamma(4.0, 0.25, size=40)
        models = {
            "target": of(0.1 * hard),
            "gold": of(hard),
            "x": of(1.0 * hard + rng.normal(0, 0.3, size=40)),
        }
        estimate = distances_to_gold(models, entered, How(resamples=200))["x"][FORGET_SIDE]
        held += estimate.low == 0.0  # the population's distance is 0
    assert held >= 90


def test_two_distances_are_told_apart_by_the_same_draws_and_not_by_two_intervals():
    near, far = model(0.8, 0.3, 0.0, seed=2), model(0.77, 0.3, 0.0, seed=2)
    runs = [{"target": TARGET, "gold": GOLD, "unlearned": own} for own in (near, far)]
    one, other = (distances_to_gold(run, ENTERED, HOW)["unlearned"] for run in runs)
    apart = difference_of_distances(("unlearned", runs[0]), ("unlearned", runs[1]), ENTERED, HOW)
    for side in (DISTANCE, FORGET_SIDE, KEPT_SIDE):
        assert apart[side].value == pytest.approx(one[side].value - other[side].value, abs=1e-12)
        assert apart[side].by == "items"
    assert one[FORGET_SIDE].high > other[FORGET_SIDE].low  # the two intervals overlap
    assert apart[FORGET_SIDE].separable
    assert apart[FORGET_SIDE].value < 0
    assert apart[KEPT_SIDE].separable is False
    itself = difference_of_distances(("unlearned", runs[0]), ("unlearned", runs[0]), ENTERED, HOW)[DISTANCE]
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)
    before = difference_of_distances(("unlearned", runs[0]), ("target", runs[0]), ENTERED, HOW)[DISTANCE]
    assert before.value == pytest.approx(one[DISTANCE].value - 1)


@pytest.mark.filterwarnings("error")
def test_draws_in_which_target_and_gold_are_equal_leave_no_interval_and_warn_of_nothing():
    def of(*nlls):
        return [
            ItemValues(model="m", set="forget", item=i, values={"answer_nll": x}) for i, x in enumerate(nlls)
        ]

    models = {"target": of(1.0, 1.0, 1.0), "gold": of(1.0, 1.0, 2.0)}
    near, far = ({**models, "unlearned": of(nll, 1.0, 1.5)} for nll in (1.5, 2.0))
    entered = type(ENTERED)(("forget/answer_nll",), (), {})
    apart = difference_of_distances(("unlearned", near), ("unlearned", far), entered, HOW)[FORGET_SIDE]
    assert (apart.value, apart.low, apart.high) == (pytest.approx(-0.5), None, None)


def test_distances_of_other_items_are_not_told_apart_by_items():
    whole = {"target": TARGET, "gold": GOLD, "unlearned": GOLD}
    part = {role: items[3:] for role, items in whole.items()}
    assert difference_of_distances(("unlearned", whole), ("unlearned", part), ENTERED, HOW) == {}


def test_unseen_data_that_moved_is_told_in_pairs():
    shifted = [
        ItemValues(**{**vars(row), "values": row.values | {"answer_nll": row.values["answer_nll"] + 0.1}})
        if row.set == "holdout"
        else row
        for row in TARGET
    ]
    found = drifts({"target": TARGET, "gold": GOLD, "unlearned": shifted}, HOW)
    moved = found["unlearned"]["holdout/nll_from_target"]
    assert moved.value == pytest.approx(0.1)
    assert moved.low == pytest.approx(0.1)
    assert moved.n == N
    assert found["target"]["holdout/nll_from_target"].value == 0
    assert found["gold"]["privacy/loss_auc_from_gold"].value == 0
    apart = found["unlearned"]["privacy/loss_auc_from_gold"]
    own, best = made("privacy/loss_auc", shifted), made("privacy/loss_auc", GOLD)
    assert apart.value == pytest.approx(own.value - best.value)
    assert apart.low < apart.value < apart.high


def test_without_a_target_or_a_holdout_the_drifts_that_need_them_are_left_out():
    assert drifts({"model": GOLD, "gold": GOLD}, HOW)["model"].keys() == {
        "holdout/nll_from_gold",
        "privacy/loss_auc_from_gold",
    }
    seen = [row for row in GOLD if row.set != "holdout"]
    assert drifts({"model": seen, "gold": seen}, HOW) == {"model": {}, "gold": {}}
