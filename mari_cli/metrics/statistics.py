"""Estimates with intervals from values of items.

Every bootstrap resamples items, never tokens: tokens of one answer are not independent. The interval is
scipy's percentile interval, for all statistics alike. It stays within the statistic's range, and holds for
any monotone function of the statistic (perplexity = exp of the mean loss). BCa would be second-order better
for skewed losses, but its jackknife needs n² values for an AUC, and BCa is undefined if all resamples are
equal. That happens in every run: a target that has memorised its data scores exactly 1.

Where all resamples of a fraction are 0, or all are 1, the interval is Wilson's: a bootstrap interval would
have no width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.estimate import Estimate, OverSeeds
from mari_cli.metrics.likelihood import exp_or_inf
from mari_cli.metrics.membership import (
    Scores,
    auc,
    dkw_radius,
    privleak,
    tpr_at_fpr,
    worst_threshold_advantage,
)


@dataclass(frozen=True)
class How:
    """Settings of the intervals."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


HOW = How()
ROWS_AT_ONCE = 4_000_000  # values of resamples in memory at any time: 32 MB


def _values(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected at least one value as a vector, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {(~np.isfinite(array)).sum()} of {array.size} values are not finite")
    return array


def _percentiles(
    samples: Sequence[NDArray[Any]], statistic: Callable[..., Any], how: How, *, paired: bool
) -> tuple[float, float]:
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=how.resamples,
        batch=max(1, ROWS_AT_ONCE // sum(len(sample) for sample in samples)),
        vectorized=True,
        paired=paired,
        confidence_level=how.confidence,
        method="percentile",
        rng=np.random.default_rng(how.seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _of_fraction(
    value: float, n: int, low: float, high: float, independent: int, confidence: float
) -> Estimate:
    """Wilson's interval if every resample is 0 or every one is 1; no interval if all have another value."""
    if low < high:
        return Estimate(value=value, n=n, low=low, high=high)
    if value in (0.0, 1.0):
        wilson = proportion_estimate(round(value * independent), independent, confidence=confidence)
        return Estimate(value=value, n=n, low=wilson.low, high=wilson.high)
    return Estimate(value=value, n=n)


def proportion_estimate(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """A share of independent yes/no items with Wilson's interval, which is valid at 0 and at 1."""
    if n <= 0:
        raise ValueError("a proportion needs at least one item")
    if n == 1:
        return Estimate(value=float(successes), n=1)
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Estimate(value=successes / n, n=n, low=float(interval.low), high=float(interval.high))


def mean_estimate(values: ArrayLike, how: How = HOW, **changes: Any) -> Estimate:
    """The mean over items. Values that are all 0 or 1 are a proportion; a single item has no interval.

    ``changes``: fields of ``how`` by name, as users' suites give them: `resamples=200`.
    """
    how = replace(how, **changes)
    array = _values("mean", values)
    n = array.size
    if n == 1:
        return Estimate(value=float(array[0]), n=1)
    if np.isin(array, (0.0, 1.0)).all():
        return proportion_estimate(int(array.sum()), n, confidence=how.confidence)
    if np.ptp(array) == 0:
        return Estimate(value=float(array[0]), n=n)
    low, high = _percentiles((array,), np.mean, how, paired=False)
    return Estimate(value=float(array.mean()), n=n, low=low, high=high)


def _ratio(numerator: Floats, denominator: Floats, axis: int = -1) -> Any:
    return numerator.sum(axis=axis) / denominator.sum(axis=axis)


def _ratio_parts(numerators: ArrayLike, denominators: ArrayLike, how: How) -> tuple[float, int, float, float]:
    above, below = _values("ratio", numerators), _values("ratio", denominators)
    if above.shape != below.shape or (below <= 0).any():
        raise ValueError("a ratio needs one positive denominator for each numerator")
    value = float(_ratio(above, below))
    if above.size == 1:
        return value, 1, value, value
    low, high = _percentiles((above, below), _ratio, how, paired=True)
    return value, above.size, low, high


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike, how: How = HOW) -> Estimate:
    """Sum over sum, items resampled in pairs: a fraction weighted by tokens, as right over all tokens."""
    value, n, low, high = _ratio_parts(numerators, denominators, how)
    return Estimate(value=value, n=1) if n == 1 else _of_fraction(value, n, low, high, n, how.confidence)


def perplexity_estimate(loss_sums: ArrayLike, tokens: ArrayLike, how: How = HOW) -> Estimate:
    """exp of the mean loss over all tokens, from each item's sum of losses in nats and number of tokens."""
    value, n, low, high = _ratio_parts(loss_sums, tokens, how)
    if low == high:
        return Estimate(value=exp_or_inf(value), n=n)
    return Estimate(value=exp_or_inf(value), n=n, low=exp_or_inf(low), high=exp_or_inf(high))


def _auc_by_ranks(forget: Floats, holdout: Floats, axis: int = -1) -> Any:
    """Mann-Whitney's U over the number of pairs, for many resamples at once; ties share their mean rank."""
    n, m = forget.shape[axis], holdout.shape[axis]
    ranks = stats.rankdata(np.concatenate([forget, holdout], axis=axis), axis=axis)
    of_forget = np.take(ranks, np.arange(n), axis=axis).sum(axis=axis)
    return (of_forget - n * (n + 1) / 2) / (n * m)


def _of_two_sets(
    value: float, statistic: Callable[..., Any], sets: tuple[Floats, Floats], independent: int, how: How
) -> Estimate:
    """An estimate whose two sets are resampled separately, so that no resample lacks one of them."""
    n = sets[0].size + sets[1].size
    if min(sets[0].size, sets[1].size) == 1:
        return Estimate(value=value, n=n)
    low, high = _percentiles(sets, statistic, how, paired=False)
    return _of_fraction(value, n, low, high, independent, how.confidence)


def auc_estimate(forget_scores: Scores, holdout_scores: Scores, how: How = HOW) -> Estimate:
    """Membership AUC.

    For sets that separate completely the interval is Wilson's for the number n of items of the smaller set.
    An AUC averages over the ways to pair these items with items of the larger set, and each way is a share of
    n independent pairs.
    """
    value = auc(forget_scores, holdout_scores)
    sets = _values("forget scores", forget_scores), _values("holdout scores", holdout_scores)
    fewer = min(sets[0].size, sets[1].size)
    return _of_two_sets(value, _auc_by_ranks, sets, fewer, how)


def tpr_at_fpr_estimate(
    forget_scores: Scores, holdout_scores: Scores, how: How = HOW, *, max_fpr: float = 0.01
) -> Estimate:
    """The highest TPR at an FPR of at most ``max_fpr``: a share of the forget items."""

    def statistic(forget: Floats, holdout: Floats, axis: int = -1) -> Any:
        return tpr_at_fpr(forget, holdout, max_fpr=max_fpr)

    value = float(tpr_at_fpr(forget_scores, holdout_scores, max_fpr=max_fpr))
    sets = _values("forget scores", forget_scores), _values("holdout scores", holdout_scores)
    return _of_two_sets(value, statistic, sets, sets[0].size, how)


def advantage_estimate(
    forget_scores: Scores, holdout_scores: Scores, *, confidence: float = 0.95
) -> Estimate:
    """The worst threshold's advantage ± `dkw_radius`, without resamples.

    The interval holds at least with its confidence for every number of items, and so is wide.
    """
    value = worst_threshold_advantage(forget_scores, holdout_scores)
    forget, holdout = _values("forget scores", forget_scores), _values("holdout scores", holdout_scores)
    radius = dkw_radius(forget.size, holdout.size, confidence=confidence)
    n = forget.size + holdout.size
    return Estimate(value=value, n=n, low=max(0.0, value - radius), high=min(1.0, value + radius))


def privleak_estimate(
    forget_scores: Scores,
    holdout_scores: Scores,
    gold_forget_scores: Scores,
    gold_holdout_scores: Scores,
    how: How = HOW,
) -> Estimate:
    """Privleak of a model against gold, whose scores are of the same items in the same order.

    An item is resampled with its scores under both models. There is no interval if its ends would be
    resamples in which gold's AUC is 1. Raises ValueError where the numbers of items differ.
    """
    forget, gold_forget = _values("forget scores", forget_scores), _values("gold", gold_forget_scores)
    holdout, gold_holdout = _values("holdout scores", holdout_scores), _values("gold", gold_holdout_scores)
    if (forget.size, holdout.size) != (gold_forget.size, gold_holdout.size):
        raise ValueError("both models must have scored the same items")
    # by ranks, equal AUCs are equal to the last bit, and their privleak is 0
    value = privleak(float(_auc_by_ranks(forget, holdout)), float(_auc_by_ranks(gold_forget, gold_holdout)))
    n = forget.size + holdout.size
    if min(forget.size, holdout.size) == 1:
        return Estimate(value=value, n=n)

    def statistic(of_forget: NDArray[np.int64], of_holdout: NDArray[np.int64], axis: int = -1) -> Any:
        here = _auc_by_ranks(forget[of_forget], holdout[of_holdout], axis)
        gold = _auc_by_ranks(gold_forget[of_forget], gold_holdout[of_holdout], axis)
        defined = gold < 1
        return np.where(defined, 100 * (gold - here) / np.where(defined, 1 - gold, 1), np.inf)

    with np.errstate(invalid="ignore"):  # scipy also computes a standard error, here of infinities
        low, high = _percentiles(
            (np.arange(forget.size), np.arange(holdout.size)), statistic, how, paired=False
        )
    if low < high and np.isfinite([low, high]).all():
        return Estimate(value=value, n=n, low=low, high=high)
    return Estimate(value=value, n=n)


ROUNDING = 1e-9
"""Values that differ relatively by no more than this are one value, computed in two ways."""


def over_seeds(
    estimates: Mapping[int, Estimate], *, confidence: float = 0.95, low: float = -np.inf, high: float = np.inf
) -> OverSeeds:
    """The mean over seeds with Student's t interval, cut to the metric's range ``low`` to ``high``.

    The interval covers other training seeds on the same items; other items are covered by each seed's own
    interval. One seed, or seeds that agree up to rounding, have no interval.
    """
    values = np.array([estimate.value for estimate in estimates.values()])
    n = min(estimate.n for estimate in estimates.values())
    by_seed = {seed: estimate.value for seed, estimate in estimates.items()}
    value = float(values.mean())
    if values.size < 2 or not np.isfinite(values).all() or np.ptp(values) <= ROUNDING * np.abs(values).max():
        return OverSeeds(value=value, n=n, values=by_seed)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    ends = max(low, float(interval.low)), min(high, float(interval.high))
    return OverSeeds(value=value, n=n, low=ends[0], high=ends[1], values=by_seed)
