from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import roc_curve

from mari_cli.errors import UserError
from mari_cli.metrics.membership import auc, dkw_radius, privleak, tpr_at_fpr, worst_threshold_advantage

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def curve(forget, holdout):
    labels = [1] * len(forget) + [0] * len(holdout)
    fpr, tpr, _ = roc_curve(labels, [*forget, *holdout], drop_intermediate=False)
    return fpr, tpr


def test_items_that_look_trained_on_score_one_and_over_forgotten_ones_zero():
    assert auc([-0.1, -0.2], [-3.0, -4.0]) == 1.0
    assert auc([-9.0, -9.5], [-3.0, -4.0]) == 0.0


def test_ties_count_half():
    assert auc([1.0, 1.0], [1.0, 1.0, 1.0]) == 0.5
    assert auc([2.0, 1.0], [1.0]) == 0.75


@pytest.mark.parametrize("aggregate", [auc, tpr_at_fpr, worst_threshold_advantage])
@pytest.mark.parametrize(("forget", "holdout"), [([], [1.0]), ([1.0], [])])
def test_an_empty_side_is_refused_and_never_a_number(aggregate, forget, holdout):
    with pytest.raises(UserError, match="needs forget and holdout items"):
        aggregate(forget, holdout)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_which_forget_scores_higher(forget, holdout):
    difference = np.subtract.outer(forget, holdout)
    assert auc(forget, holdout) == pytest.approx((difference > 0).mean() + (difference == 0).mean() / 2)
    assert auc(forget, holdout) + auc(holdout, forget) == pytest.approx(1)


# -- TPR at a low FPR ----------------------------------------------------------------------------------------


def test_below_a_hundred_holdout_items_one_percent_allows_no_false_positive():
    holdout = [float(i) for i in range(99)]
    assert tpr_at_fpr([97.5, 98.5, 99.0, 50.0], holdout) == 0.5  # those above all of the 99


def test_of_a_hundred_holdout_items_one_may_be_called_trained_on():
    holdout = [float(i) for i in range(100)]
    assert tpr_at_fpr([98.5, 99.0, 98.0, 50.0], holdout) == 0.5  # those above the second highest


def test_nothing_is_interpolated_between_thresholds():
    """At the threshold of 1.0 half the forget set is found, with every holdout item: too many."""
    assert tpr_at_fpr([1.0, 1.0], [1.0] * 200) == 0.0


def test_allowing_everything_finds_everything():
    assert tpr_at_fpr([-5.0], [1.0, 2.0], max_fpr=1.0) == 1.0


@pytest.mark.parametrize(("items", "allowed"), [(100, 29), (200, 58), (1000, 290)])
def test_a_share_that_is_a_whole_number_of_items_is_not_one_less(items, allowed):
    assert 0.29 * 100 < 29
    holdout = -np.arange(float(items))
    forget = -np.arange(float(items)) + 0.5
    assert tpr_at_fpr(forget, holdout, max_fpr=0.29) == (allowed + 1) / items


@given(SCORES, SCORES, st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]))
def test_tpr_is_the_highest_point_of_the_roc_curve_left_of_the_limit(forget, holdout, limit):
    fpr, tpr = curve(forget, holdout)
    assert tpr_at_fpr(forget, holdout, max_fpr=limit) == pytest.approx(tpr[fpr <= limit].max())


def test_many_resamples_at_once_are_each_by_itself():
    generator = np.random.default_rng(0)
    forget, holdout = generator.normal(1, 1, (5, 40)), generator.normal(0, 1, (5, 150))
    each = [tpr_at_fpr(f, h) for f, h in zip(forget, holdout, strict=True)]
    assert tpr_at_fpr(forget, holdout).tolist() == each


# -- the worst threshold -------------------------------------------------------------------------------------


@given(SCORES, SCORES)
def test_advantage_is_the_largest_gap_between_the_rates(forget, holdout):
    thresholds = [*forget, *holdout, 4.0]
    gaps = [abs((np.array(forget) >= t).mean() - (np.array(holdout) >= t).mean()) for t in thresholds]
    assert worst_threshold_advantage(forget, holdout) == pytest.approx(max(gaps))


def test_advantage_is_the_kolmogorov_smirnov_distance():
    generator = np.random.default_rng(0)
    forget, holdout = generator.normal(0.4, 1, 300), generator.normal(0, 1.5, 200)
    assert worst_threshold_advantage(forget, holdout) == pytest.approx(ks_2samp(forget, holdout).statistic)


def test_looking_less_trained_on_than_unseen_data_is_an_advantage_too():
    assert worst_threshold_advantage([-9.0, -9.5], [-3.0, -4.0]) == 1.0
    assert worst_threshold_advantage([1.0, 1.0], [1.0]) == 0.0


def test_the_radius_adds_both_sets_distances_at_half_the_error_each():
    n, m, alpha = 160, 40, 0.05
    each = [sqrt(log(2 / (alpha / 2)) / (2 * items)) for items in (n, m)]
    assert dkw_radius(n, m) == pytest.approx(sum(each), rel=1e-12)
    assert dkw_radius(160, 40, confidence=0.99) > dkw_radius(160, 40)


# -- privleak ------------------------------------------------------------------------------------------------


def test_privleak_is_zero_at_gold_negative_before_and_positive_beyond():
    assert privleak(0.6, 0.6) == 0.0
    assert privleak(1.0, 0.6) == -100.0
    assert privleak(0.2, 0.6) == pytest.approx(100.0)


def test_privleak_is_muses_with_their_auc_of_the_other_class():
    """MUSE's own constants: on News the retrained model's AUC is .4772 with holdout as the positive class; a
    target at .001 there has their published -99.8."""
    theirs, theirs_retrain = 0.001, 0.4772
    assert privleak(1 - theirs, 1 - theirs_retrain) == pytest.approx(
        100 * (theirs - theirs_retrain) / theirs_retrain
    )
    assert round(privleak(1 - theirs, 1 - theirs_retrain), 1) == -99.8


def test_privleak_is_undefined_where_gold_tells_everything_apart():
    with pytest.raises(ValueError, match="privleak is undefined"):
        privleak(1.0, 1.0)
