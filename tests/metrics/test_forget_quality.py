import numpy as np
import pytest
from scipy import stats

from mari_cli.metrics.forget_quality import _p_value, forget_quality_estimates
from mari_cli.metrics.statistics import How

# forget quality of runs on TOFU's leaderboard (llama-10p.csv and llama-1p.csv), with the D it belongs to
PUBLISHED = [
    (119, 300, 1.834066410994743e-21),
    (145, 300, 4.072551448422551e-32),
    (51, 300, 0.00033397069759294196),
    (104, 300, 2.1942743021891237e-16),
]


@pytest.mark.parametrize(("steps", "n", "published"), PUBLISHED)
def test_the_ends_of_an_interval_are_p_values_of_the_same_test(steps, n, published):
    assert _p_value(steps, n) == pytest.approx(published, rel=1e-12)


def test_value_and_distance_are_those_of_scipy():
    generator = np.random.default_rng(0)
    own, gold = generator.normal(size=50), generator.normal(0.7, 1.3, size=50)
    p_value, distance = forget_quality_estimates(own, gold)
    test = stats.ks_2samp(own, gold)
    assert (p_value.value, distance.value) == (test.pvalue, test.statistic)
    assert p_value.n == distance.n == 50


def test_only_the_order_of_the_ratios_matters():
    generator = np.random.default_rng(1)
    own, gold = generator.normal(size=40), generator.normal(0.5, size=40)
    assert forget_quality_estimates(own, gold) == forget_quality_estimates(np.exp(own), np.exp(gold))


def test_the_gold_model_has_the_forget_quality_one_and_no_interval():
    ratios = np.random.default_rng(2).normal(size=30)
    p_value, distance = forget_quality_estimates(ratios, ratios)
    assert (p_value.value, p_value.low, distance.value, distance.low) == (1.0, None, 0.0, None)


def test_the_interval_contains_the_value_also_where_every_resample_lies_above_it():
    generator = np.random.default_rng(3)
    own, gold = generator.normal(size=300), generator.normal(size=300)
    p_value, distance = forget_quality_estimates(own, gold)
    assert p_value.low <= p_value.value <= p_value.high
    assert distance.low <= distance.value <= distance.high


def test_items_are_drawn_with_both_their_values():
    """Two models that err on the same items are compared more sharply than two that do not."""
    generator = np.random.default_rng(4)
    own = generator.normal(size=200)
    near, far = own + 0.3 + 0.05 * generator.normal(size=200), generator.permutation(own) + 0.3
    [(_, paired), (_, unpaired)] = [forget_quality_estimates(own, gold) for gold in (near, far)]
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_the_interval_covers_the_distance_of_the_populations():
    truth = 2 * stats.norm.cdf(0.25) - 1  # of two normal distributions half a deviation apart
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        common = generator.normal(size=100)
        own, gold = (0.7 * common + 0.714 * generator.normal(size=100) for _ in range(2))
        _, distance = forget_quality_estimates(own, gold + 0.5, How(resamples=200, seed=seed))
        covered += distance.low <= truth <= distance.high
    assert covered >= 55


def test_one_item_has_no_interval():
    p_value, distance = forget_quality_estimates([0.1], [0.4])
    assert (p_value.value, distance.value, distance.low) == (1.0, 1.0, None)


@pytest.mark.parametrize(
    ("own", "gold"), [([], []), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0], [np.inf])]
)
def test_other_items_or_values_that_are_no_numbers_are_refused(own, gold):
    with pytest.raises(ValueError, match="truth ratios"):
        forget_quality_estimates(own, gold)
