from math import exp, inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mari_cli.metrics.truth_ratio import (
    log_truth_ratio,
    log_truth_ratio_arithmetic,
    log_truth_ratio_open_unlearning,
    normalised_probability,
    truth_ratio_of_forgotten,
    truth_ratio_of_known,
)

LOSS = st.floats(0, 50)
LOSSES = st.lists(LOSS, min_size=1, max_size=5)


def test_the_geometric_mean_is_that_of_the_probabilities():
    probabilities, paraphrase = [0.5, 0.125, 0.25], 0.8
    ratio = exp(log_truth_ratio(-log(paraphrase), [-log(p) for p in probabilities]))
    assert ratio == pytest.approx((0.5 * 0.125 * 0.25) ** (1 / 3) / 0.8, rel=1e-14)


@given(paraphrase=LOSS, wrong=LOSS)
def test_open_unlearnings_ratio_has_1e_10_beside_the_paraphrase(paraphrase, wrong):
    theirs = exp(-wrong) / (exp(-paraphrase) + 1e-10)
    found = log_truth_ratio_open_unlearning(log_truth_ratio(paraphrase, [wrong]), paraphrase)
    assert exp(found) == pytest.approx(theirs, rel=1e-9)


def test_open_unlearnings_ratio_of_a_collapsed_model_is_p_of_the_wrong_answer_alone():
    assert log_truth_ratio_open_unlearning(0.5, 10_000.0) == pytest.approx(0.5 - 10_000 - log(1e-10))


def test_the_arithmetic_mean_is_another_number():
    ratio = exp(log_truth_ratio_arithmetic(-log(0.8), [-log(0.5), -log(0.125), -log(0.25)]))
    assert ratio == pytest.approx(0.875 / 3 / 0.8, rel=1e-14)


@given(LOSS, LOSSES)
def test_the_arithmetic_mean_is_never_below_the_geometric(paraphrase, wrong):
    assert log_truth_ratio_arithmetic(paraphrase, wrong) >= log_truth_ratio(paraphrase, wrong) - 1e-12


def test_one_wrong_answer_has_one_mean():
    assert log_truth_ratio(1.0, [3.0]) == log_truth_ratio_arithmetic(1.0, [3.0]) == -2.0


@given(LOSS, LOSSES)
def test_aggregates_are_those_of_the_ratio(paraphrase, wrong):
    log_ratio = log_truth_ratio(paraphrase, wrong)
    ratio = exp(log_ratio)
    assert truth_ratio_of_forgotten(log_ratio) == pytest.approx(min(ratio, 1 / ratio), abs=1e-15)
    assert truth_ratio_of_known(log_ratio) == pytest.approx(max(0, 1 - ratio), abs=1e-15)


def test_truth_and_falsehood_as_likely_is_one_for_the_forgotten_and_zero_for_the_known():
    assert (truth_ratio_of_forgotten(0.0), truth_ratio_of_known(0.0)) == (1.0, 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_collapsed_model_has_numbers_too(sign):
    log_ratio = log_truth_ratio(5000.0 + sign * 2000, [5000.0, 5000.0])
    assert log_ratio == sign * 2000
    assert truth_ratio_of_forgotten(log_ratio) == 0.0
    assert truth_ratio_of_known(log_ratio) == (0.0 if sign > 0 else 1.0)
    assert log_truth_ratio_arithmetic(5000.0, [7000.0, 9000.0]) == pytest.approx(-2000 - log(2))


def test_a_normalised_probability_is_the_share_of_the_answers_offered():
    assert normalised_probability(-log(0.2), [-log(0.1), -log(0.1)]) == pytest.approx(0.5, rel=1e-14)
    assert normalised_probability(2.0, [2.0, 2.0, 2.0]) == pytest.approx(0.25)


def test_a_normalised_probability_does_not_underflow():
    assert normalised_probability(2000.0, [2000.0]) == 0.5
    assert normalised_probability(2000.0, [0.0]) == pytest.approx(0.0, abs=1e-300)
    assert normalised_probability(0.0, [2000.0]) == 1.0


@pytest.mark.parametrize("loss", [inf, nan, -inf])
@pytest.mark.parametrize("of", [log_truth_ratio, log_truth_ratio_arithmetic, normalised_probability])
def test_what_is_not_finite_is_refused(of, loss):
    with pytest.raises(ValueError, match="not finite"):
        of(loss, [1.0])
    with pytest.raises(ValueError, match="not finite"):
        of(1.0, [1.0, loss])


@pytest.mark.parametrize("of", [log_truth_ratio, log_truth_ratio_arithmetic, normalised_probability])
def test_without_a_wrong_answer_there_is_nothing_to_compare_with(of):
    with pytest.raises(ValueError, match="at least one wrong answer"):
        of(1.0, [])
