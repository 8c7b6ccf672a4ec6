"""The bound against measurement: each formula in closed form, in float64."""

import runpy
from math import log, sqrt
from pathlib import Path

import pytest
import torch

from mari_cli.losses.marginal import generalised_jsd
from mari_cli.metrics.bound import (
    accuracy_of_advantage,
    fano_accuracy_bound,
    information_of_tokens,
    prior_entropy,
)
from mari_cli.metrics.marginal import bayes_accuracy, support_information
from mari_cli.metrics.membership import worst_threshold_advantage
from mari_cli.metrics.statistics import How

RANK = Path(__file__).parents[2] / "experiments" / "bound" / "rank.py"


@pytest.fixture(scope="module")
def rank_correlation():
    """The experiment's own function."""
    return runpy.run_path(str(RANK))["rank_correlation"]


def test_many_tokens_tell_no_more_than_the_coin_holds():
    assert information_of_tokens(0.1, 3) == pytest.approx(0.3, abs=1e-15)
    assert information_of_tokens(0.1, 10) == log(2)
    assert information_of_tokens(0.1, 10, prior=0.2) == pytest.approx(
        0.2 * log(5) + 0.8 * log(1.25), abs=1e-12
    )
    assert information_of_tokens(-1e-18, 10) == 0
    assert information_of_tokens(0.05, 0) == 0


def test_n_independent_tokens_have_at_most_n_times_the_information():
    p, q = (torch.tensor(values, dtype=torch.float64) for values in ([0.5, 0.3, 0.2], [0.3, 0.4, 0.3]))
    one = float(generalised_jsd(p, q, 0.5))
    many_p, many_q = p, q
    for tokens in range(2, 6):
        many_p, many_q = (torch.outer(many, single).flatten() for many, single in ((many_p, p), (many_q, q)))
        many = float(generalised_jsd(many_p, many_q, 0.5))
        assert many <= information_of_tokens(one, tokens) + 1e-15
        # and so no detector of all of them is better than the bound
        best = float(bayes_accuracy(many_p, many_q))
        assert best <= fano_accuracy_bound(information_of_tokens(one, tokens)) + 1e-12


def test_the_accuracy_of_the_best_threshold_is_that_of_trying_all():
    forget, holdout = [0.1, 0.4, 0.35, 0.8], [0.1, 0.3, 0.2, 0.6, 0.05]
    best = max(
        (sum(x >= t for x in forget) / 4 + sum(x < t for x in holdout) / 5) / 2
        for t in [*forget, *holdout, 9]
    )
    assert accuracy_of_advantage(worst_threshold_advantage(forget, holdout)) == pytest.approx(best, abs=1e-15)
    assert accuracy_of_advantage(0) == 0.5
    assert accuracy_of_advantage(1) == 1


def naive_support_information(p, q, prior, share):
    mixed = (1 - share) * q + share * p
    m = (1 - prior) * q + prior * mixed
    return ((1 - prior) * q * (q / m).log() + prior * mixed * (mixed / m).log()).sum(-1).mean()


def test_information_against_the_support_is_the_paper_s_on_its_outcomes():
    torch.manual_seed(0)
    logits = torch.randn(7, 11, dtype=torch.float64)
    ids = torch.stack([torch.randperm(11)[:4] for _ in range(7)])
    q = torch.rand(7, 4, dtype=torch.float64) / 5
    p = logits.softmax(-1).gather(-1, ids)
    p, whole_q = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1) for x in (p, q))
    for prior, share, chunk in ((0.5, 0.3, 256), (0.2, 0.9, 2)):
        found = support_information(logits, ids, q, lambda h: h, share=share, prior=prior, chunk=chunk)
        expected = naive_support_information(p, whole_q, prior, share)
        assert found == pytest.approx(float(expected), rel=1e-10)
    own = logits.softmax(-1).gather(-1, ids)
    assert support_information(logits, ids, own, lambda h: h, share=0.5) == pytest.approx(0, abs=1e-15)


def test_rank_correlation_is_spearman_s(rank_correlation):
    pairs = [(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 3.0), (5.0, 5.0)]
    runs = {str(i): [pair] for i, pair in enumerate(pairs)}
    # 1 - 6 Σd² / (n (n² - 1)), no ties
    assert rank_correlation(runs, How(200)).value == pytest.approx(1 - 6 * 4 / (5 * 24), abs=1e-12)
    ties = {"a": [(0.0, 1.0)], "b": [(0.0, 2.0)], "c": [(1.0, 3.0)]}
    assert rank_correlation(ties, How(200)).value == pytest.approx(sqrt(3) / 2, abs=1e-12)
    grown = {name: [(x**3, -y) for x, y in of_run] for name, of_run in runs.items()}
    assert rank_correlation(grown, How(200)).value == pytest.approx(-0.8, abs=1e-12)


def test_runs_are_drawn_whole(rank_correlation):
    """Ten pairs of one run tell no more than one pair: the interval must not shrink with copies."""
    single = {str(i): [(float(i), float((7 * i) % 10))] for i in range(10)}
    copied = {name: of_run * 10 for name, of_run in single.items()}
    one, ten = rank_correlation(single, How(300)), rank_correlation(copied, How(300))
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert (one.n, ten.n) == (10, 100)


def test_without_a_spread_there_is_no_rank_correlation(rank_correlation):
    found = rank_correlation({"a": [(1.0, 1.0)], "b": [(1.0, 2.0)], "c": [(1.0, 3.0)]}, How(100))
    assert found.value != found.value
    assert found.low is None
    assert rank_correlation({"a": [(1.0, 1.0), (2.0, 2.0)]}, How(100)).low is None


def test_the_coin_holds_its_entropy():
    assert prior_entropy(0.5) == pytest.approx(log(2), abs=1e-15)
