"""Which items are measured: one draw for each seed, all of them together."""

import random
from statistics import fmean, pvariance

from mari_cli.config import MetricsConfig
from mari_cli.suites.draws import drawn, seeds_of


def test_without_a_limit_everything_is_measured_once_whatever_the_seeds():
    assert drawn(5, None, [0, 1]) == drawn(5, 5, [3]) == drawn(5, 9, [0, 1, 2]) == [0, 1, 2, 3, 4]


def test_one_seed_draws_so_many_in_order():
    chosen = drawn(100, 10, [7])
    assert len(chosen) == 10
    assert chosen == sorted(random.Random(7).sample(range(100), 10))


def test_several_seeds_are_the_union_of_their_draws():
    assert drawn(100, 10, [0, 1, 2]) == sorted(
        {*drawn(100, 10, [0]), *drawn(100, 10, [1]), *drawn(100, 10, [2])}
    )
    assert drawn(100, 10, [1, 0]) == drawn(100, 10, [0, 1])


def test_the_runs_seed_draws_where_no_others_are_given():
    assert seeds_of(MetricsConfig(), 4) == [4]
    assert seeds_of(MetricsConfig(seeds=[0, 1]), 4) == [0, 1]


def test_the_items_of_all_draws_tell_more_than_the_mean_of_the_draws():
    """And neither is biased: the truth is 49.5."""
    union, mean = [], []
    for first in range(0, 3000, 3):
        seeds = [first, first + 1, first + 2]
        union.append(fmean(drawn(100, 40, seeds)))
        mean.append(fmean(fmean(drawn(100, 40, [seed])) for seed in seeds))
    assert abs(fmean(union) - 49.5) < 0.3
    assert abs(fmean(mean) - 49.5) < 0.3
    assert pvariance(union) < 0.75 * pvariance(mean)
