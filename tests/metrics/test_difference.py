"""Two models on the same items, two intervals, methods over seeds: what separates them, what does not."""

from math import exp, sqrt

import numpy as np
import pytest
from scipy import stats

from mari_cli.errors import UserError
from mari_cli.metrics.difference import (
    Difference,
    difference_of_estimates,
    difference_over_seeds,
    newcombe,
    paired_difference,
)
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import ItemValues, Resamplable, take_apart
from mari_cli.metrics.membership import auc
from mari_cli.metrics.statistics import How, mean_estimate, over_seeds, perplexity_estimate, ratio_estimate
from mari_cli.report.comparison import metric_of


def rows(set: str = "forget", *, suite: str | None = None, fact: str | None = None, **columns) -> list:
    """Items of one model from its columns."""
    return [
        ItemValues(
            model="m", set=set, suite=suite, item=i, key=f"{i:016x}", fact=fact,
            values=dict(zip(columns, map(float, values), strict=True)),
        )
        for i, values in enumerate(zip(*columns.values(), strict=True))
    ]  # fmt: skip


def made(metric: str, items: list, gold: list = ()) -> Resamplable | None:
    return take_apart(metric_of(metric), items, gold)


def told(metric: str, a: list, b: list, **options) -> Difference:
    return paired_difference(made(metric, a), made(metric, b), How(**options))


RNG = np.random.default_rng(0)
HARD = RNG.exponential(2.0, 300)
"""How hard the items are, for every model alike."""


# -- metrics made of items ------------------------------------------------------------------------


def test_metrics_made_again_from_items_are_those_that_were_measured():
    nll, tokens = RNG.exponential(1.0, 50), RNG.integers(1, 30, 50)
    right = RNG.integers(0, tokens + 1)
    items = rows(answer_nll=nll, tokens=tokens, exact_memorization=right / tokens)
    assert made("forget/answer_nll", items).value == pytest.approx(mean_estimate(nll).value, abs=1e-14)
    assert made("forget/token_accuracy", items).value == pytest.approx(
        ratio_estimate(right, tokens).value, abs=1e-14
    )
    assert made("forget/perplexity", items).value == pytest.approx(
        perplexity_estimate(nll * tokens, tokens).value, rel=1e-14
    )


def test_an_auc_made_again_from_items_is_scikit_learns_with_ties_and_all():
    forget, holdout = RNG.integers(0, 6, 80), RNG.integers(1, 8, 60)
    items = rows("forget", answer_nll=forget) + rows("holdout", answer_nll=holdout)
    expected = pytest.approx(auc(-forget.astype(float), -holdout.astype(float)), abs=1e-14)
    assert made("privacy/loss_auc", items).value == expected
    items = rows("forget", min_k=-forget) + rows("holdout", min_k=-holdout)
    assert made("privacy/min_k_auc", items).value == expected


def test_an_auc_of_drawn_items_is_that_of_the_items_drawn():
    forget, holdout = RNG.integers(0, 9, 20).astype(float), RNG.integers(2, 12, 30).astype(float)
    whole = made("privacy/zlib_auc", rows("forget", zlib=forget) + rows("holdout", zlib=holdout))
    draws = RNG.integers(0, 20, (7, 20)), RNG.integers(0, 30, (7, 30))
    assert whole.of(draws) == pytest.approx([auc(forget[f], holdout[h]) for f, h in zip(*draws, strict=True)])


def test_facts_and_suites_are_told_apart():
    unique = rows(recalled=[1, 0, 0, 0], fact="unique")
    shared = [ItemValues(model="m", set="forget", item=9, fact="shared", values={"recalled": 1.0})]
    assert made("facts/unique_recall", unique + shared).value == 0.25
    ours, theirs = rows(answer_nll=[1.0, 2.0]), rows(suite="tofu", answer_nll=[3.0, 4.0], probability=[5, 7])
    assert made("forget/answer_nll", ours + theirs).value == 1.5
    assert made("tofu/forget/probability", ours + theirs).value == 6.0


def test_truth_ratios_are_read_by_what_the_set_is_there_for():
    ratios = [0.5, 2.0, 4.0, 0.0]
    assert made("tofu/forget/truth_ratio", rows("forget", suite="tofu", truth_ratio=ratios)).value == (
        pytest.approx((0.5 + 0.5 + 0.25 + 0) / 4)
    )
    assert made("tofu/retain/truth_ratio", rows("retain", suite="tofu", truth_ratio=ratios)).value == (
        pytest.approx((0.5 + 0 + 0 + 1) / 4)
    )


def test_truth_ratios_may_be_given_as_logarithms_of_any_size():
    logs = [-2000.0, -0.5, 0.0, 2000.0]
    assert made("tofu/forget/truth_ratio", rows("forget", suite="tofu", log_truth_ratio=logs)).value == (
        pytest.approx((0 + exp(-0.5) + 1 + 0) / 4)
    )
    known = rows("facts", suite="tofu", log_truth_ratio_arithmetic=logs)
    assert made("tofu/facts/truth_ratio_arithmetic", known).value == pytest.approx(
        (1 + (1 - exp(-0.5)) + 0 + 0) / 4
    )


def tofu(shift: float = 0.0) -> list:
    rng = np.random.default_rng(9)
    return [
        row
        for name, n in (("retain", 40), ("authors", 20), ("facts", 30), ("forget", 10))
        for row in rows(
            name,
            suite="tofu",
            probability=rng.uniform(0.2, 1.0, n) - shift,
            rouge_l_recall=rng.uniform(0, 1, n),
            log_truth_ratio=rng.normal(-0.5, 0.5, n),
        )
    ]


def test_model_utility_is_made_of_nine_means_and_compared_on_the_same_items():
    items = tofu()
    nine = [
        np.mean([of(row.values) for row in items if row.set == name])
        for name in ("retain", "authors", "facts")
        for of in (
            lambda v: v["probability"],
            lambda v: v["rouge_l_recall"],
            lambda v: max(0.0, 1 - exp(v["log_truth_ratio"])),
        )
    ]
    assert made("tofu/model_utility", items).value == pytest.approx(stats.hmean(nine), rel=1e-12)
    assert made("tofu/model_utility_arithmetic", items) is None
    difference = told("tofu/model_utility", items, tofu(shift=0.02))
    assert difference.separable
    assert difference.n == 90


@pytest.mark.parametrize(
    ("suite", "sets"), [("tofu", ("forget", "holdout")), ("muse", ("privacy_forget", "privacy_holdout"))]
)
def test_the_attacks_of_a_suite_are_compared_on_the_same_items(suite, sets):
    items = [
        row
        for name, low in zip(sets, (HARD[:40], HARD[40:80] + 1), strict=True)
        for row in rows(name, suite=suite, answer_nll=low, min_k=-low)
    ]
    for score in ("loss", "min_k"):
        whole = made(f"{suite}/{score}_auc", items)
        assert whole.value == pytest.approx(auc(-HARD[:40], -HARD[40:80] - 1), abs=1e-12)


def ratios(shift: float, noise: int) -> list:
    """Log truth ratios of forget items, hard ones hard for every model, further from gold's by ``shift``."""
    own = np.random.default_rng(noise).normal(0, 0.3, 300)
    return rows(suite="tofu", log_truth_ratio=np.log(HARD + 0.1) + shift + own)


def test_forget_quality_is_compared_by_its_distance_to_gold():
    gold = ratios(0.0, 0)
    near, far = (made("tofu/forget_quality_ks", ratios(shift, 1), gold) for shift in (0.2, 1.2))
    for shift, whole in ((0.2, near), (1.2, far)):
        samples = ([row.values["log_truth_ratio"] for row in model] for model in (ratios(shift, 1), gold))
        assert whole.value == pytest.approx(stats.ks_2samp(*samples).statistic, abs=1e-7)
    apart = paired_difference(far, near)
    assert (apart.by, apart.n, apart.separable) == ("items", 300, True)
    assert apart.low < far.value - near.value < apart.high


def test_two_models_equally_far_from_gold_on_either_side_are_not_separable():
    gold = ratios(0.0, 0)
    above, below = (made("tofu/forget_quality_ks", ratios(s, n), gold) for s, n in ((0.6, 1), (-0.6, 2)))
    assert paired_difference(above, below).separable is False


def test_a_distance_to_gold_of_drawn_items_is_that_of_the_items_drawn():
    own, gold = ratios(0.4, 1), ratios(0.0, 0)
    draw = np.random.default_rng(3).integers(0, 300, (2, 300))
    found = made("tofu/forget_quality_ks", own, gold).of((draw,))
    for one, distance in zip(draw, found, strict=True):
        samples = ([model[i].values["log_truth_ratio"] for i in one] for model in (own, gold))
        assert distance == pytest.approx(stats.ks_2samp(*samples).statistic, abs=1e-7)


def test_without_gold_on_the_same_items_there_is_no_distance_to_it():
    own = ratios(0.4, 1)
    assert made("tofu/forget_quality_ks", own) is None
    assert made("tofu/forget_quality_ks", own, ratios(0.0, 0)[:200]) is None


def test_a_metric_called_after_its_set_is_made_of_that_set():
    said = rows("verbatim_forget", suite="muse", rouge_l_f1=[0.2, 0.4])
    probes = rows("forget_level1", suite="rwku", rouge_l_recall=[0.5, 1.0])
    passages = rows("mia_forget", suite="rwku", answer_nll=[2.0, 3.0])
    seen = rows("privacy_forget", suite="muse", min_k=[-1.0, -2.0, -3.0])
    unseen = rows("privacy_holdout", suite="muse", min_k=[-2.5, -4.0])
    every = [*said, *probes, *passages, *seen, *unseen]
    assert made("muse/verbatim_forget", every).value == pytest.approx(0.3)
    assert made("rwku/forget_level1", every).value == 0.75
    assert made("rwku/mia_forget_nll", every).value == 2.5
    assert made("muse/min_k_auc", every).value == pytest.approx(5 / 6)
    assert made("muse/privleak", every) is None


def test_a_benchmark_is_made_of_its_questions_and_a_group_of_those_of_its_tasks():
    law = rows("mmlu_law", acc=[1, 0, 0])
    physics = rows("mmlu_physics", acc=[1])
    arc = rows("arc_challenge", acc=[0, 0], acc_norm=[1, 0])
    wiki = rows("wikitext", loglikelihood=[-30.0, -50.0], words=[10, 10])
    every = [*law, *physics, *arc, *wiki]
    assert made("benchmark/mmlu", every).value == 0.5
    assert made("benchmark/mmlu_law", every).value == pytest.approx(1 / 3)
    assert made("benchmark/arc_challenge", every).value == 0.5
    assert made("benchmark/arc_challenge_acc", every).value == 0.0
    assert made("benchmark/wikitext", every).value == pytest.approx(exp(80 / 20))
    assert made("benchmark/piqa", every) is None


def test_a_recall_of_a_suites_facts_is_none_of_the_corpus():
    answers = rows("facts", suite="tofu", rouge_l_recall=[0.25, 0.75])
    assert made("tofu/facts/rouge_l_recall", answers).value == 0.5


def test_what_items_do_not_tell_is_not_made_of_them():
    items = rows(answer_nll=[1.0, 2.0])
    for metric in ("marginal/pooled", "benchmark/mmlu", "forget/verbatim_rouge_l", "privacy/loss_auc", "x"):
        assert made(metric, items) is None
    assert made("forget/answer_nll", rows(answer_nll=[1.0, float("nan")])) is None


def test_only_the_items_that_were_asked_count():
    items = rows(answer_nll=[1.0, 2.0, 3.0])
    items[1].values["verbatim_rouge_l"] = 0.5
    assert made("forget/verbatim_rouge_l", items).items == ((("forget", 1, f"{1:016x}"),),)


# -- on the same items ----------------------------------------------------------------------------


def test_a_small_difference_on_items_of_very_different_difficulty_is_seen_in_pairs_only():
    a, b = HARD + 0.1, HARD + RNG.normal(0, 0.05, 300)
    difference = told("forget/answer_nll", rows(answer_nll=a), rows(answer_nll=b))
    assert difference.separable
    assert difference.value == pytest.approx(float((a - b).mean()))
    apart = difference_of_estimates(mean_estimate(a), mean_estimate(b))
    assert not apart.separable
    assert (difference.n, difference.by) == (300, "items")


def test_the_interval_of_a_mean_difference_is_close_to_students():
    a, b = HARD + 0.1, HARD + RNG.normal(0, 0.5, 300)
    difference = told("forget/answer_nll", rows(answer_nll=a), rows(answer_nll=b))
    expected = stats.ttest_rel(a, b).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_the_paired_test_separates_equal_models_about_as_rarely_as_it_says():
    rng = np.random.default_rng(5)
    found = 0
    for seed in range(200):
        hard = rng.exponential(1.0, 60)
        a, b = (rows(answer_nll=hard + rng.normal(0, 0.3, 60)) for _ in range(2))
        found += bool(told("forget/answer_nll", a, b, resamples=300, seed=seed).separable)
    assert 2 <= found <= 22


def test_a_difference_has_the_opposite_sign_the_other_way_round():
    a, b = rows(answer_nll=HARD + 0.1), rows(answer_nll=HARD + RNG.normal(0, 0.5, 300))
    one, other = told("forget/answer_nll", a, b), told("forget/answer_nll", b, a)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_the_auc_of_two_models_is_compared_on_the_same_items():
    looks, unseen = RNG.normal(1.0, 1.0, 200), RNG.normal(0.0, 1.0, 200)
    a = rows("forget", min_k=looks) + rows("holdout", min_k=unseen)
    b = rows("forget", min_k=looks - 0.1) + rows("holdout", min_k=unseen)
    difference = told("privacy/min_k_auc", a, b)
    assert difference.separable
    assert 0 < difference.low < difference.value < difference.high < 0.06
    assert difference.value == pytest.approx(auc(looks, unseen) - auc(looks - 0.1, unseen))


def test_perplexities_are_compared_as_perplexities():
    loss, tokens = RNG.exponential(1.0, 80), RNG.integers(1, 9, 80)
    a, b = rows(answer_nll=loss, tokens=tokens), rows(answer_nll=loss + 1, tokens=tokens)
    difference = told("forget/perplexity", a, b)
    mean = (loss * tokens).sum() / tokens.sum()
    assert difference.value == pytest.approx(exp(mean) - exp(mean + 1))
    assert difference.high < 0


def test_other_items_are_refused_with_what_differs():
    a, b = rows(answer_nll=[1.0, 2.0, 3.0]), rows(answer_nll=[1.0, 2.0])
    with pytest.raises(UserError, match="3 items of the one and 2 of the other, 2 in common"):
        told("forget/answer_nll", a, b)
    changed = [*a[:2], ItemValues(model="m", set="forget", item=2, key="other", values={"answer_nll": 3.0})]
    with pytest.raises(UserError, match="3 items of the one and 3 of the other, 2 in common"):
        told("forget/answer_nll", a, changed)


def test_the_order_of_the_items_does_not_matter():
    a, b = rows(answer_nll=[1.0, 2.0, 5.0]), rows(answer_nll=[1.0, 2.5, 3.0])
    assert told("forget/answer_nll", a, b[::-1]) == told("forget/answer_nll", a, b)


def test_the_same_values_are_no_difference():
    difference = told("forget/answer_nll", rows(answer_nll=HARD), rows(answer_nll=HARD))
    assert difference == Difference(value=0.0, n=300, by="items", low=0.0, high=0.0)
    assert difference.separable is False


@pytest.mark.parametrize(("changed", "separable"), [(4, False), (5, False), (6, True)])
def test_as_few_items_as_a_sign_test_could_not_tell_apart_separate_nothing(changed, separable):
    a, b = HARD.copy(), HARD.copy()
    a[:changed] += RNG.uniform(0.9, 1.1, changed)
    assert told("forget/answer_nll", rows(answer_nll=a), rows(answer_nll=b)).separable is separable


def test_one_item_has_no_interval():
    difference = told("forget/answer_nll", rows(answer_nll=[1.0]), rows(answer_nll=[2.0]))
    assert (difference.value, difference.separable) == (-1.0, None)


# -- yes and no -----------------------------------------------------------------------------------


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return np.array(a), np.array(b)


@pytest.mark.parametrize(
    ("counts", "low", "high"), [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292)]
)
def test_paired_shares_have_the_interval_of_newcombes_table(counts, low, high):
    assert newcombe(*table(*counts)) == pytest.approx((low, high), abs=5e-5)


def test_models_that_get_everything_right_are_not_certain_to_be_equal():
    a, b = table(400, 0, 0, 0)
    difference = told("forget/exact_match", rows(exact_match=a), rows(exact_match=b))
    assert difference.low < 0 < difference.high < 0.011
    assert difference.separable is False


@pytest.mark.parametrize("only_a", range(1, 9))
def test_a_few_disagreements_separate_about_where_mcnemars_exact_test_does(only_a):
    a, b = table(380, only_a, 0, 20 - only_a)
    separable = told("forget/exact_match", rows(exact_match=a), rows(exact_match=b)).separable
    exact = stats.binomtest(only_a, only_a).pvalue < 0.05  # mid-p, which Newcombe's follows, is half of it
    assert separable in (exact, stats.binomtest(only_a, only_a).pvalue / 2 < 0.05)


# -- from intervals alone -------------------------------------------------------------------------


def about(value: float, below: float, above: float | None = None) -> Estimate:
    return Estimate(value=value, n=100, low=value - below, high=value + (below if above is None else above))


def test_distances_to_the_far_ends_add_in_squares():
    difference = difference_of_estimates(about(1.0, 0.3, 0.5), about(0.2, 0.1, 0.4))
    assert difference.value == pytest.approx(0.8)
    assert difference.low == pytest.approx(0.8 - sqrt(0.3**2 + 0.4**2))
    assert difference.high == pytest.approx(0.8 + sqrt(0.5**2 + 0.1**2))


def test_intervals_that_overlap_a_little_may_be_separable():
    assert difference_of_estimates(about(1.0, 0.1), about(1.15, 0.1)).separable
    assert not difference_of_estimates(about(1.0, 0.1), about(1.13, 0.1)).separable


def test_without_an_interval_nothing_is_judged():
    assert difference_of_estimates(Estimate(value=1.0, n=1), about(1.0, 0.1)) is None
    assert difference_of_estimates(about(float("nan"), 0.1), about(1.0, 0.1)) is None


# -- over seeds -----------------------------------------------------------------------------------


def seeds(*values: float, first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, start=first))


def test_the_mean_over_seeds_has_students_interval_and_keeps_each_seed():
    values = (0.50, 0.54, 0.58)
    found = over_seeds({seed: about(value, 0.1) for seed, value in seeds(*values).items()})
    half = stats.t.ppf(0.975, 2) * 0.04 / sqrt(3)
    assert found.value == pytest.approx(0.54)
    assert (found.low, found.high) == pytest.approx((0.54 - half, 0.54 + half))
    assert (found.n, found.values) == (100, seeds(*values))


def test_an_interval_over_seeds_stays_in_the_metrics_range():
    found = over_seeds({0: about(0.90, 0.1), 1: about(1.00, 0.1)}, low=0.0, high=1.0)
    assert (found.low, found.high) == (pytest.approx(0.95 - 12.706 * 0.05, abs=1e-3), 1.0)


@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.5, 0.5), (0.5, float("nan"))])
def test_seeds_without_spread_have_no_interval(values):
    found = over_seeds({seed: about(value, 0.1) for seed, value in seeds(*values).items()})
    assert (found.low, found.high) == (None, None)


def test_the_same_seeds_are_compared_in_pairs():
    a, b = seeds(1.0, 2.0, 3.0), seeds(0.8, 1.9, 2.85)
    difference = difference_over_seeds(a, dict(reversed(b.items())))
    expected = stats.ttest_rel([1.0, 2.0, 3.0], [0.8, 1.9, 2.85]).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert (difference.separable, difference.n, difference.by) == (True, 3, "seeds")


def test_other_seeds_are_compared_by_welch():
    a, b = seeds(1.0, 2.0, 3.0), seeds(0.8, 1.9, first=5)
    difference = difference_over_seeds(a, b, confidence=0.9)
    expected = stats.ttest_ind([1.0, 2.0, 3.0], [0.8, 1.9], equal_var=False).confidence_interval(0.9)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert difference.separable is False


def test_one_seed_against_several_is_not_judged():
    assert difference_over_seeds(seeds(1.0), seeds(1.0, 2.0)) is None
    assert difference_over_seeds(seeds(1.0, float("inf")), seeds(1.0, 2.0)) is None


def test_seeds_without_any_spread_claim_nothing_but_equality():
    assert difference_over_seeds(seeds(1.0, 1.0), seeds(1.0, 1.0)).separable is False
    assert difference_over_seeds(seeds(1.0, 1.0), seeds(2.0, 2.0)).separable is None


def test_seeds_that_agree_up_to_rounding_have_no_interval():
    """As differences of two AUCs do: .3 - .2 and .2 - .1."""
    values = 0.3 - 0.2, 0.2 - 0.1
    assert values[0] != values[1]
    found = over_seeds({seed: Estimate(value=value, n=10) for seed, value in enumerate(values)})
    assert (found.low, found.high) == (None, None)
    assert found.value == pytest.approx(0.1)
