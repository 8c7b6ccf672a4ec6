"""Forget quality: whether the truth ratios of the forget items are distributed as the retain model's (TOFU,
Maini et al. 2024, https://arxiv.org/abs/2401.06121).

It is the p-value of the two-sample Kolmogorov-Smirnov test between both models' truth ratios on the same
items. The test's statistic D is the largest distance of their distribution functions. Only the order of the
ratios matters, so their logarithms give the same. Without the retain model there is no forget quality.

The interval is a bootstrap over items, each drawn with its values under both models. D of a resample is
biased (the more similar the distributions, the more of D is noise). So the deviation of the resampled
difference of the distribution functions from the measured one is resampled. Its quantile around D covers D
(Bickel and Freedman 1981, "Some Asymptotic Theory for the Bootstrap"), and the p-values at the ends of D's
interval are the ends of forget quality's.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import HOW, How

_VALUES_AT_ONCE = 4_000_000
"""Values of resamples in memory at one time."""


def forget_quality_estimates(
    log_ratios_N: Sequence[float], gold_log_ratios_N: Sequence[float], how: How = HOW
) -> tuple[Estimate, Estimate]:
    """(p-value, D), both in [0, 1]. Item i of one sequence is item i of the other. There is no interval for a
    single item, or if no resample differs. Raises ValueError for other shapes and for values not finite."""
    own, gold = (np.asarray(values, dtype=np.float64) for values in (log_ratios_N, gold_log_ratios_N))
    if own.shape != gold.shape or own.ndim != 1 or own.size == 0:
        raise ValueError(f"expected truth ratios of the same items, got shapes {own.shape} and {gold.shape}")
    if not (np.isfinite(own).all() and np.isfinite(gold).all()):
        raise ValueError("truth ratios that are not finite")
    test = ks_test(own, gold)
    p_value, distance, n = float(test.pvalue), float(test.statistic), own.size
    reach = _reach(own, gold, how)
    if n == 1 or reach == 0:
        return Estimate(value=p_value, n=n), Estimate(value=distance, n=n)
    steps = round(distance * n)
    low, high = max(0, steps - reach), min(n, steps + reach)
    return (
        Estimate(value=p_value, n=n, low=_p_value(high, n), high=_p_value(low, n)),
        Estimate(value=distance, n=n, low=low / n, high=high / n),
    )


def _reach(own: Floats, gold: Floats, how: How) -> int:
    """The quantile ``confidence`` of the deviations of resampled differences of the distribution functions
    from the measured one, in steps of 1/N."""
    n = own.size
    at_M = np.unique(np.concatenate([own, gold]))
    # the amount that item i adds to the difference at each place: -1, 0 or 1
    steps_NM = (own[:, None] <= at_M).astype(np.float32) - (gold[:, None] <= at_M).astype(np.float32)
    generator = np.random.default_rng(how.seed)
    found: list[NDArray[np.float32]] = []
    for start in range(0, how.resamples, rows := max(1, _VALUES_AT_ONCE // at_M.size)):
        draws = generator.multinomial(n, np.full(n, 1 / n), size=min(rows, how.resamples - start))
        found.append(np.abs((draws - 1).astype(np.float32) @ steps_NM).max(axis=1))
    return round(float(np.quantile(np.concatenate(found), how.confidence, method="higher")))


def _p_value(steps: int, n: int) -> float:
    """The p-value of D = ``steps`` / N between two samples of ``n``; D and n alone determine it."""
    first = np.arange(n)
    return float(ks_test(first, first + steps).pvalue)


def ks_test(first: ArrayLike, second: ArrayLike) -> Any:
    """scipy's two-sample Kolmogorov-Smirnov test, two-sided."""
    with warnings.catch_warnings():
        # scipy warns where rounding takes the exact p-value just above 1, and then uses the asymptotic one
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        return stats.ks_2samp(first, second)
