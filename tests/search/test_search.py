"""What a search may choose, which trial comes next, and which is best: functions of their arguments alone."""

import json
from dataclasses import asdict

import pytest

from mari_cli.errors import UserError
from mari_cli.search.aim import Aim
from mari_cli.search.plan import read_settings
from mari_cli.search.sampler import Sampler, propose
from mari_cli.search.space import Interval, OneOf, combinations, from_plain
from mari_cli.search.trials import Trial, best, middle

LR = Interval("train.lr", 1e-5, 1e-3, log=True)
BETA = OneOf("loss.beta", (0.1, 0.5, 1))
WHOLE = Interval("train.steps", 1, 3, whole=True)


def trial(number, cost, settings=None):
    return Trial(0, number, settings or {}, f"0-{number}", value=cost, cost=cost)


@pytest.mark.parametrize(
    ("low", "high", "log", "told"),
    [
        (1e-3, 1e-5, False, "is empty"),
        (1.0, 1.0, False, "is empty"),
        (0.0, 1.0, True, "begins above 0"),
        (-1.0, 1.0, True, "begins above 0"),
        (0.0, float("inf"), False, "has no end"),
        (float("nan"), 1.0, False, "has no end"),
    ],
)
def test_an_interval_that_nothing_can_be_drawn_of_is_refused(low, high, log, told):
    with pytest.raises(UserError, match=told) as refused:
        Interval("train.lr", low, high, log=log)
    assert refused.value.hint


def test_a_choice_holds_each_value_once():
    with pytest.raises(UserError, match="twice"):
        OneOf("loss.beta", (0.1, 0.5, 0.1))


@pytest.mark.parametrize("of_key", [LR, BETA, WHOLE, OneOf("a.b", (None, True, "word", 3))])
def test_a_range_comes_back_from_json_as_it_was(of_key):
    assert from_plain(json.loads(json.dumps(asdict(of_key)))) == of_key


def sequence(ranges, *, sampler, seed=0, method="npo", trials=6, costs=None, so_far=()):
    """The settings of every trial, each chosen by those before."""
    done = list(so_far)
    for number in range(len(done), trials):
        tried = [one.settings for one in done]
        settings = propose(ranges, done, tried, sampler=sampler, seed=seed, method=method, trials=trials)
        cost = costs(settings) if costs else float(number)
        done.append(Trial(0, number, settings, str(number), value=cost, cost=cost))
    return done


@pytest.mark.parametrize("sampler", [Sampler.tpe, Sampler.random])
def test_a_sequence_of_trials_follows_from_its_seed_and_from_what_came_out(sampler):
    pytest.importorskip("optuna")
    whole = sequence([LR, BETA], sampler=sampler)
    again = sequence([LR, BETA], sampler=sampler, so_far=whole[:3])  # as after a kill
    assert [one.settings for one in again] == [one.settings for one in whole]
    assert all(LR.holds(one.settings["train.lr"]) for one in whole)
    assert all(BETA.holds(one.settings["loss.beta"]) for one in whole)
    other = sequence([LR, BETA], sampler=sampler, seed=1)
    assert [one.settings for one in other] != [one.settings for one in whole]
    elsewhere = sequence([LR, BETA], sampler=sampler, method="kl_ga")
    assert [one.settings for one in elsewhere] != [one.settings for one in whole]


def test_tpe_learns_from_what_came_out_and_random_does_not():
    pytest.importorskip("optuna")

    def far(settings):
        return abs(settings["x"] - 0.8)

    def flat(settings):
        return 0.0

    space = [Interval("x", 0, 1)]
    learned = sequence(space, sampler=Sampler.tpe, trials=16, costs=far)
    assert [one.settings for one in learned] != [
        one.settings for one in sequence(space, sampler=Sampler.tpe, trials=16, costs=flat)
    ]
    late = [far(one.settings) for one in learned[8:]]
    early = [far(one.settings) for one in learned[:5]]
    assert sum(late) / len(late) < sum(early) / len(early)
    assert [one.settings for one in sequence(space, sampler=Sampler.random, costs=far)] == [
        one.settings for one in sequence(space, sampler=Sampler.random, costs=flat)
    ]


@pytest.mark.parametrize("sampler", list(Sampler))
def test_no_settings_come_twice_and_a_small_space_is_used_up(sampler):
    pytest.importorskip("optuna")
    space = [BETA, OneOf("train.dropout", (True, False))]
    found = sequence(space, sampler=sampler, trials=int(combinations(space)))
    assert len({json.dumps(one.settings) for one in found}) == 6


@pytest.mark.parametrize("sampler", [Sampler.tpe, Sampler.random])
def test_of_an_interval_whose_numbers_begin_alike_no_number_comes_twice(sampler):
    pytest.importorskip("optuna")
    found = [one.settings["x"] for one in sequence([Interval("x", 1.0, 1.00001)], sampler=sampler, trials=4)]
    assert len(set(found)) == 4
    assert all(1.0 <= x <= 1.00001 for x in found)


def test_a_trial_that_failed_is_told_to_the_sampler_as_the_worst():
    pytest.importorskip("optuna")
    done = [Trial(0, n, {"x": x}, str(n), failed="burnt") for n, x in enumerate((0.1, 0.2, 0.3))]
    done.append(Trial(0, 3, {"x": 0.9}, "3", value=1.0, cost=1.0))
    settings = propose(
        [Interval("x", 0, 1)],
        done,
        [one.settings for one in done],
        sampler=Sampler.tpe,
        seed=0,
        method="m",
        trials=9,
    )
    assert 0 <= settings["x"] <= 1


def test_the_best_trial_and_the_one_in_the_middle():
    trials = [trial(0, 0.4), trial(1, 0.1), trial(2, 0.3), trial(3, 0.1)]
    assert best(trials).number == 1  # of equals the earlier
    assert middle(trials).number == 2  # of an even number the worse of the two
    assert middle([trial(0, 0.4)]).number == 0
    failed = Trial(0, 4, {}, "4", failed="burnt")
    assert middle([trial(0, 0.4), failed, failed]) is None
    assert best([failed]) is None
    assert middle([]) is None


def result(now, gold=None):
    models = {"unlearned": {"metrics": {"forget/answer_nll": {"value": now}}}}
    if gold is not None:
        models["gold"] = {"metrics": {"forget/answer_nll": {"value": gold}}}
    return {"models": models}


@pytest.mark.parametrize(
    ("direction", "now", "gold", "cost"),
    [
        ("down", 0.4, None, 0.4),
        ("up", 0.4, None, -0.4),
        ("gold", 0.4, 1.0, 0.6),
        ("gold", 0.4, None, None),
        ("down", None, None, None),
        ("down", float("nan"), None, None),
    ],
)
def test_an_aim_is_a_cost(direction, now, gold, cost):
    found = Aim("forget/answer_nll", direction).cost(result(now, gold))
    assert found == (None if cost is None else pytest.approx(cost))
    assert Aim("forget/other", direction).cost(result(now, gold)) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "`sweep.trials` does not say how often"),
        ({"trials": 0}, "whole number from 1"),
        ({"trials": 2.5}, "whole number"),
        ({"trials": True}, "whole number"),
        ({"trials": 2, "trails": 3}, "unknown config key `sweep.trails`"),
        ({"trials": 2, "sampler": "annealing"}, "no sampler `annealing`"),
        ({"trials": 2, "direction": "sideways"}, "must be minimise or maximise"),
        ({"trials": 2, "report_seeds": 3}, "must be a list"),
        ({"trials": 2, "report_seeds": [1, 1]}, "holds a seed twice"),
        ({"trials": 2, "report_seeds": [-1]}, "whole number from 0"),
        ({"trials": 2, "report_untuned": True}, "needs `sweep.report_seeds`"),
        ({"trials": 2, "report_untuned": 1, "report_seeds": [1]}, "true or false"),
        ({"trials": 2, "together": 0}, "whole number from 1"),
    ],
)
def test_what_no_search_can_take_is_refused_with_a_hint(given, told):
    pytest.importorskip("optuna")
    with pytest.raises(UserError, match=told) as refused:
        read_settings(given)
    assert refused.value.hint


def test_trials_that_learn_run_one_by_one_and_others_all_together():
    pytest.importorskip("optuna")
    assert read_settings({"trials": 6}).at_once == 1
    assert read_settings({"trials": 6, "together": 2}).at_once == 2
    assert read_settings({"trials": 6, "sampler": "random"}).at_once == 6


def test_without_optuna_a_grid_alone_can_be_searched(monkeypatch):
    monkeypatch.setattr("mari_cli.search.plan.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs optuna, which is not installed"):
        read_settings({"trials": 2})
    assert read_settings({"trials": 2, "sampler": "grid"}).trials == 2
