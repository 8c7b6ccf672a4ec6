from math import exp, sqrt

import numpy as np
import pytest
from scipy import stats

from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.membership import auc, dkw_radius, privleak, tpr_at_fpr
from mari_cli.metrics.statistics import (
    How,
    advantage_estimate,
    auc_estimate,
    mean_estimate,
    perplexity_estimate,
    privleak_estimate,
    proportion_estimate,
    ratio_estimate,
    tpr_at_fpr_estimate,
)

NORMAL = np.random.default_rng(1).normal(3.0, 2.0, size=400)


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    p = successes / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_the_interval_of_a_mean_is_close_to_the_normal_one_on_normal_data():
    estimate = mean_estimate(NORMAL)
    half = 1.96 * NORMAL.std(ddof=1) / sqrt(len(NORMAL))
    assert estimate.value == pytest.approx(NORMAL.mean())
    assert estimate.n == 400
    assert estimate.low == pytest.approx(NORMAL.mean() - half, abs=0.05)
    assert estimate.high == pytest.approx(NORMAL.mean() + half, abs=0.05)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    estimates = [mean_estimate(rng.exponential(1.0, size=80), How(resamples=300, seed=i)) for i in range(200)]
    held = sum(estimate.low <= 1.0 <= estimate.high for estimate in estimates)
    assert 0.87 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    assert mean_estimate(NORMAL, How(seed=7)) == mean_estimate(NORMAL, How(seed=7))
    assert mean_estimate(NORMAL, How(seed=7)) != mean_estimate(NORMAL, How(seed=8))


def test_less_confidence_is_a_narrower_interval():
    wide, narrow = mean_estimate(NORMAL, How(confidence=0.99)), mean_estimate(NORMAL, How(confidence=0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_single_item_has_no_interval():
    assert mean_estimate([0.3]) == Estimate(value=0.3, n=1)
    assert ratio_estimate([3], [4]) == Estimate(value=0.75, n=1)
    assert proportion_estimate(1, 1) == Estimate(value=1.0, n=1)


def test_no_item_has_no_mean():
    with pytest.raises(ValueError, match="at least one value"):
        mean_estimate([])


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        mean_estimate([1.0, float("nan"), 2.0])


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (50, 50), (13, 50)])
def test_zeros_and_ones_are_a_proportion_with_wilsons_interval(successes, n):
    estimate = mean_estimate([1.0] * successes + [0.0] * (n - successes))
    assert (estimate.low, estimate.high) == pytest.approx(wilson(successes, n))
    assert estimate == proportion_estimate(successes, n)


def test_all_right_is_not_certainty():
    estimate = mean_estimate([1.0] * 20)
    assert estimate.value == estimate.high == 1.0
    assert 0.8 < estimate.low < 0.9


def test_other_constants_claim_no_interval():
    assert mean_estimate([0.25] * 9) == Estimate(value=0.25, n=9)


def test_a_mean_takes_how_its_interval_is_made_by_name_too():
    """Suites that users wrote do so."""
    values, how = [0.3, 0.1, 0.7, 0.2], How(resamples=200, confidence=0.8, seed=3)
    assert mean_estimate(values, resamples=200, confidence=0.8, seed=3) == mean_estimate(values, how)
    with pytest.raises(TypeError, match="sample"):
        mean_estimate(values, sample=200)


def test_a_ratio_weighs_items_by_their_tokens():
    correct, tokens = [9, 0], [10, 90]
    assert ratio_estimate(correct, tokens).value == pytest.approx(0.09)


def test_the_interval_of_a_ratio_resamples_whole_items():
    """Ten tokens of one answer that stand and fall together are one observation, not ten."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2, size=100)
    ratio, items_alone = ratio_estimate(items * 10, np.full(100, 10)), mean_estimate(items)
    assert ratio.high - ratio.low == pytest.approx(items_alone.high - items_alone.low, rel=0.15)


def test_a_ratio_of_one_has_the_interval_of_as_many_items():
    estimate = ratio_estimate([3, 5, 2], [3, 5, 2])
    assert (estimate.value, estimate.n) == (1.0, 3)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(3, 3))


def test_a_ratio_without_tokens_is_refused():
    with pytest.raises(ValueError, match="positive denominator"):
        ratio_estimate([1, 0], [2, 0])


def test_perplexity_is_exp_of_the_ratio_in_value_and_interval():
    sums, tokens = np.random.default_rng(2).exponential(20, 60), np.full(60, 10)
    loss, estimate = ratio_estimate(sums, tokens), perplexity_estimate(sums, tokens)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (exp(loss.value), exp(loss.low), exp(loss.high))
    )


def test_perplexity_of_one_claims_no_interval():
    assert perplexity_estimate([0.0, 0.0], [4, 5]) == Estimate(value=1.0, n=2)


def test_the_auc_with_ties_is_scikit_learns_and_lies_in_its_interval():
    rng = np.random.default_rng(4)
    forget, holdout = rng.integers(0, 6, 80).astype(float), rng.integers(-1, 5, 60).astype(float)
    estimate = auc_estimate(forget, holdout)
    assert estimate.value == auc(forget, holdout)
    assert estimate.n == 140
    assert estimate.low < estimate.value < estimate.high


def test_the_interval_of_an_auc_agrees_with_the_binormal_one():
    """Hanley and McNeil's standard error, for exponential scores at which it is exact."""
    rng = np.random.default_rng(5)
    estimate = auc_estimate(rng.exponential(2.0, 300), rng.exponential(1.0, 300))
    a = 2 / 3
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = sqrt((a * (1 - a) + 299 * (q1 - a * a) + 299 * (q2 - a * a)) / 300**2)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.15)


def test_sets_that_separate_completely_still_have_an_interval():
    estimate = auc_estimate([5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.0])
    assert estimate.value == 1.0
    assert (estimate.low, estimate.high) == pytest.approx(wilson(3, 3))


def test_an_auc_without_holdout_is_refused():
    with pytest.raises(UserError, match="holdout"):
        auc_estimate([1.0, 2.0], [])


# -- membership ----------------------------------------------------------------------------------------------


def two_sets(shift: float, n: int = 150, m: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n), rng.normal(0, 1, m)


def test_tpr_has_an_interval_of_resamples_of_both_sets():
    forget, holdout = two_sets(2.0)
    estimate = tpr_at_fpr_estimate(forget, holdout, How(resamples=400))
    assert estimate.value == tpr_at_fpr(forget, holdout)
    assert estimate.n == 350
    assert 0 < estimate.low < estimate.value < estimate.high < 1


def test_a_tpr_of_one_is_a_share_of_the_forget_items():
    estimate = tpr_at_fpr_estimate([5.0] * 30, [1.0] * 400, How(resamples=50))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(wilson(30, 30)[0])


def test_the_advantages_interval_is_the_radius_to_either_side_within_its_range():
    forget, holdout = two_sets(1.0)
    estimate = advantage_estimate(forget, holdout)
    radius = dkw_radius(150, 200)
    assert estimate.value == stats.ks_2samp(forget, holdout).statistic
    assert (estimate.low, estimate.high) == (estimate.value - radius, estimate.value + radius)
    assert advantage_estimate([1.0, 1.0], [1.0]) == Estimate(value=0.0, n=3, low=0.0, high=1.0)


def test_the_radius_holds_for_the_population_at_least_as_often_as_it_says():
    """Normal scores one deviation apart: the population's advantage is Φ(1/2) - Φ(-1/2) = 0.3829."""
    truth = 2 * stats.norm.cdf(0.5) - 1
    found = [advantage_estimate(*two_sets(1.0, 60, 60, seed), confidence=0.8) for seed in range(300)]
    assert sum(e.low <= truth <= e.high for e in found) / 300 >= 0.8
    # at a radius for 80 % far more than 80 % hold: the price of a union bound
    assert min(e.high - e.value for e in found) == pytest.approx(dkw_radius(60, 60, confidence=0.8))


def test_privleak_resamples_an_item_with_both_models_scores_of_it():
    forget, holdout = two_sets(1.0)
    gold_forget, gold_holdout = forget - 1.0, holdout
    paired = privleak_estimate(forget, holdout, gold_forget, gold_holdout)
    assert paired.value == privleak(auc(forget, holdout), auc(gold_forget, gold_holdout))
    assert paired.low < paired.value < paired.high < 0
    # the same scores in another order of gold's items: the same value, a wider interval
    shuffled = np.random.default_rng(5).permutation(gold_holdout)
    unpaired = privleak_estimate(forget, holdout, gold_forget, shuffled)
    assert unpaired.value == paired.value
    assert unpaired.high - unpaired.low > 1.2 * (paired.high - paired.low)


def test_gold_against_itself_is_zero_for_certain():
    forget, holdout = two_sets(0.3)
    assert privleak_estimate(forget, holdout, forget, holdout) == Estimate(value=0.0, n=350)


def test_as_visible_as_to_gold_is_zero_to_the_last_bit():
    """Other scores, and forget higher in 12 of 24 pairs under both models."""
    forget, holdout = [8.0, 5.0, 1.0, 2.0], [7.0, 4.0, 3.0, 2.5, 6.0, 0.0]
    assert auc(forget, holdout) == pytest.approx(12 / 24)
    gold_forget, gold_holdout = [6.5, 5.0, 2.6, 1.0], [7.0, 4.0, 3.0, 2.5, 6.0, 0.0]
    assert auc(gold_forget, gold_holdout) == pytest.approx(12 / 24)
    assert privleak_estimate(forget, holdout, gold_forget, gold_holdout, How(resamples=20)).value == 0


def test_privleak_wants_the_same_items_under_both_models():
    with pytest.raises(ValueError, match="the same items"):
        privleak_estimate([1.0, 2.0], [0.0], [1.0], [0.0])


def test_privleak_claims_no_interval_where_gold_often_tells_everything_apart():
    estimate = privleak_estimate([1.0, 0.5, 3.0], [0.0, 0.2], [1.0, 0.1, 3.0], [0.0, 0.2])
    assert estimate == Estimate(value=pytest.approx(-100.0), n=5)
