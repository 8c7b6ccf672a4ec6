"""When unlearning stops and what it keeps."""

from dataclasses import replace
from math import inf, nan

import pytest

from mari_cli.config import Keep, StopConfig
from mari_cli.train.stop import Evaluation, Verdict, far_past, judge, on_its_way

RULES = StopConfig(retain_patience=0)
"""With the retain rule as the paper has it."""


def look(step, forget, retain, holdout=None):
    return Evaluation(step=step, forget_nll=forget, retain_accuracy=retain, holdout_nll=holdout)


START = look(0, 0.1, 0.9, 2.0)


def test_retain_accuracy_may_fall_by_three_per_cent_of_its_start_and_no_more():
    floor = 0.9 * 0.97
    assert judge([START, look(10, 0.5, floor + 1e-9, 2.0)], RULES, Keep.best).stop is None
    verdict = judge([START, look(10, 0.5, floor - 1e-9, 2.0)], RULES, Keep.best)
    assert verdict.stop is not None
    assert "more than 3% below its start" in verdict.stop


PATIENT = StopConfig(retain_patience=20)
FALLS = [START, look(10, 0.5, 0.8, 2.0), look(20, 1.0, 0.7, 2.0)]


def test_a_fall_may_be_won_back_while_patience_lasts():
    assert judge(FALLS, PATIENT, Keep.best).stop is None
    back = [*FALLS, look(30, 1.5, 0.89, 2.0)]
    assert judge(back, PATIENT, Keep.best) == Verdict(30, None)
    assert judge([*back, look(40, 1.8, 0.8, 2.0)], PATIENT, Keep.best) == Verdict(30, None)  # counts anew


def test_a_fall_that_lasts_ends_the_run():
    verdict = judge([*FALLS, look(30, 1.5, 0.8, 2.0)], PATIENT, Keep.best)
    assert verdict.kept_step == 0
    assert verdict.stop is not None
    assert verdict.stop.endswith("more than 3% below its start 0.9000, since step 10")


def test_patience_is_counted_in_steps_however_often_one_looks():
    often = [START, *(look(step, 0.5, 0.8, 2.0) for step in range(2, 23))]
    stopped = [judge(often[:end], PATIENT, Keep.best).stop is not None for end in range(1, len(often) + 1)]
    assert stopped.index(True) == 21
    seldom = [START, look(100, 0.5, 0.8, 2.0), look(200, 0.5, 0.8, 2.0)]
    assert judge(seldom[:2], PATIENT, Keep.best).stop is None
    assert judge(seldom, PATIENT, Keep.best).stop is not None


def test_no_other_rule_ends_a_run_in_a_fall_of_which_nothing_would_be_kept():
    passed = [START, look(10, 3.0, 0.8, 2.0)]
    assert judge(passed, PATIENT, Keep.best) == Verdict(0, None)
    assert "reached the holdout" in str(judge([*passed, look(20, 3.0, 0.89, 2.0)], PATIENT, Keep.best).stop)


def test_it_stops_where_the_forget_loss_reaches_the_holdouts():
    verdict = judge([START, look(10, 2.1, 0.9, 2.05)], RULES, Keep.best)
    assert verdict.stop is not None
    assert "reached the holdout" in verdict.stop


def test_without_a_holdout_only_the_retain_rule_stops():
    assert judge([look(0, 0.1, 0.9), look(10, 99.0, 0.9)], RULES, Keep.best).stop is None


def test_either_rule_can_be_switched_off():
    off = StopConfig(retain_drop=None, at_holdout=False)
    assert judge([START, look(10, 9.0, 0.1, 2.0)], off, Keep.best).stop is None


def test_the_checkpoint_nearest_the_holdouts_loss_is_kept_from_either_side():
    history = [START, look(10, 1.0, 0.9, 2.0), look(20, 1.9, 0.9, 2.0), look(30, 3.0, 0.9, 2.0)]
    assert judge(history, RULES, Keep.best).kept_step == 20
    history[2] = look(20, 1.2, 0.9, 2.0)
    history[3] = look(30, 2.1, 0.9, 2.0)
    assert judge(history, RULES, Keep.best).kept_step == 30


def test_a_checkpoint_that_breaks_the_retain_rule_is_never_kept():
    history = [START, look(10, 1.0, 0.9, 2.0), look(20, 2.0, 0.5, 2.0)]
    assert judge(history, RULES, Keep.best).kept_step == 10


def test_the_start_is_kept_only_where_nothing_else_is_allowed():
    assert judge([START], RULES, Keep.best).kept_step == 0
    assert judge([START, look(10, 5.0, 0.1, 2.0)], RULES, Keep.best).kept_step == 0
    assert judge([START, look(10, 5.0, 0.9, 2.0)], RULES, Keep.best).kept_step == 10


def test_without_a_holdout_the_last_allowed_checkpoint_is_kept():
    history = [look(0, 0.1, 0.9), look(10, 1.0, 0.9), look(20, 2.0, 0.9), look(30, 3.0, 0.5)]
    assert judge(history, RULES, Keep.best).kept_step == 20


def test_last_keeps_the_last():
    assert judge([START, look(10, 5.0, 0.1, 2.0)], RULES, Keep.last).kept_step == 10


def gap(step, value, *, forget=0.5, retain=0.9, holdout=None):
    return replace(look(step, forget, retain, holdout), true_token_gap=value)


def test_it_stops_where_the_true_tokens_no_longer_stand_out_and_needs_no_holdout():
    rules = StopConfig(true_token_gap=2.0)
    assert judge([gap(0, 9.0), gap(10, 2.1)], rules, Keep.best).stop is None
    verdict = judge([gap(0, 9.0), gap(10, 2.1), gap(20, 2.0)], rules, Keep.best)
    assert verdict.kept_step == 20
    assert "stand out by 2.000 nats, no more than train.stop.true_token_gap=2" in verdict.stop


def test_the_gap_rule_is_off_unless_asked_for_and_the_other_rules_come_first():
    assert judge([gap(0, 9.0), gap(10, -5.0)], RULES, Keep.best).stop is None
    rules = StopConfig(true_token_gap=2.0, retain_patience=0)
    assert "retain" in judge([gap(0, 9.0), gap(10, 1.0, retain=0.5)], rules, Keep.best).stop
    assert "holdout" in judge([gap(0, 9.0), gap(10, 1.0, forget=2.5, holdout=2.0)], rules, Keep.best).stop


@pytest.mark.parametrize("value", [nan, inf])
def test_a_gap_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"train\.stop\.true_token_gap must be a number of nats"):
        StopConfig(true_token_gap=value)


@pytest.mark.parametrize(("forget", "expected"), [(2.0, False), (3.8, False), (4.0, True)])
def test_a_kept_step_further_past_the_holdouts_loss_than_the_start_was_short_of_it_is_far_past(
    forget, expected
):
    history = [START, look(10, forget, 0.9, 2.0), look(20, 9.0, 0.1, 2.0)]
    assert judge(history, PATIENT, Keep.best).kept_step == 10
    assert far_past(START, history[1]) is expected
    assert not far_past(START, START)
    assert not far_past(look(0, 0.1, 0.9), look(10, forget, 0.9))  # no holdout
    assert not far_past(look(0, 2.5, 0.9, 2.0), look(10, 9.0, 0.9, 2.0))  # was past it before


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.0, 0.4, 0.8, 1.0, 1.2], True),
        ([0.0, 0.4, 0.8, 1.0, 1.05], False),  # hardly rises
        ([0.0, 1.0, 1.6, 1.8, 1.95], False),  # hardly anything is left
        ([0.0, 1.0, 2.0, 3.0, 4.0], False),  # has passed by
        ([0.0, 0.4], False),  # too short to tell
        ([2.5, 2.6, 2.7, 2.8, 2.9], False),  # was never below
    ],
)
def test_a_run_that_ends_while_its_forget_loss_rises_to_the_holdouts_is_on_its_way(losses, expected):
    looks = [look(10 * i, loss, 0.9, 2.0) for i, loss in enumerate(losses)]
    assert on_its_way(looks) is expected
    assert not on_its_way([replace(one, holdout_nll=None) for one in looks])
