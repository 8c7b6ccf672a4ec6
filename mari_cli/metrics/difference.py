"""The difference of two models in a metric, with its interval, and whether the metric separates them.

Overlap of two intervals is no test: on the same items both models fail at the same hard ones, which widens
either interval but not that of the difference. So items are resampled once, for both models. Without values
of items, the interval of the difference is computed from the two intervals. Over seeds, the runs are the
sample, and Student's t gives the interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

import numpy as np
from scipy import stats

from mari_cli.errors import UserError
from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import Resamplable, what_differs
from mari_cli.metrics.statistics import HOW, ROUNDING, ROWS_AT_ONCE, How

By = Literal["items", "intervals", "seeds"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``n``: items, or seeds of the side that has fewer. ``low`` and ``high`` are None if there is no
    interval."""

    value: float
    n: int
    by: By
    low: float | None = None
    high: float | None = None

    @property
    def separable(self) -> bool | None:
        """Whether the interval excludes 0; None if there is no interval."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 0 <= self.high


def paired_difference(a: Resamplable, b: Resamplable, how: How = HOW) -> Difference:
    """The difference of two models on the same items: a paired bootstrap with a percentile interval.

    Every set is resampled on its own, and one draw serves both models. Means of yes and no get Newcombe's
    interval instead, which holds even where the models hardly ever differ. A mean is not separable if fewer
    items differ than a sign test needs, whatever the resamples give. Raises UserError where the items differ.
    """
    if differs := what_differs(a, b):
        raise UserError(
            f"the two models were not measured on the same items: {differs}",
            "measure both on one corpus, with one `metrics.max_items` and one `seed`",
        )
    value, n = a.value - b.value, sum(len(of_set) for of_set in a.items)
    if a.yes_no and b.yes_no:
        low, high = newcombe(a.values[0][:, 0], b.values[0][:, 0], confidence=how.confidence)
        return Difference(value=value, n=n, by="items", low=low, high=high)
    if all(np.array_equal(ours, theirs) for ours, theirs in zip(a.values, b.values, strict=True)):
        return Difference(value=0.0, n=n, by="items", low=0.0, high=0.0)
    if min(len(of_set) for of_set in a.items) == 1:
        return Difference(value=value, n=n, by="items")
    width = sum(of_set.size for of_set in (*a.values, *b.values))

    def both(*draws: Floats, axis: int = -1) -> Floats:
        chosen = tuple(draw.astype(np.intp) for draw in draws)
        return np.asarray(a.of(chosen) - b.of(chosen))

    interval = stats.bootstrap(
        tuple(np.arange(len(of_set)) for of_set in a.items),
        both,
        n_resamples=how.resamples,
        batch=max(1, ROWS_AT_ONCE // width),
        vectorized=True,
        paired=False,  # the sets are not paired; the models are, by the drawn indices
        confidence_level=how.confidence,
        method="percentile",
        rng=np.random.default_rng(how.seed),
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if len(a.values) == 1 and 2 ** (1 - _differing(a, b)) > 1 - how.confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(value=value, n=n, by="items", low=low, high=high)


def _differing(a: Resamplable, b: Resamplable) -> int:
    """The number of items on which two models differ: a sign test of k items has no p-value below 2^(1-k)."""
    return int((a.values[0] != b.values[0]).any(axis=-1).sum())


def newcombe(a: Floats, b: Floats, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the difference of two shares on the same items, from the Wilson interval of each.

    Newcombe 1998, Improved confidence intervals for the difference between binomial proportions based on
    paired data, Statistics in Medicine 17, method 10: square-and-add, corrected for the correlation.
    """
    n = a.size
    both, only_a, only_b = ((a * b).sum(), (a * (1 - b)).sum(), ((1 - a) * b).sum())
    neither = n - both - only_a - only_b
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    excess = both * neither - only_a * only_b
    if excess > 0:  # with Newcombe's correction for continuity
        excess = max(0.0, excess - n / 2)
    correlation = excess / sqrt(margins) if margins > 0 else 0.0
    (p, p_low, p_high), (q, q_low, q_high) = (_wilson(int(x.sum()), n, confidence) for x in (a, b))
    below = (p - p_low) ** 2 - 2 * correlation * (p - p_low) * (q_high - q) + (q_high - q) ** 2
    above = (p_high - p) ** 2 - 2 * correlation * (p_high - p) * (q - q_low) + (q - q_low) ** 2
    return p - q - sqrt(max(0.0, below)), p - q + sqrt(max(0.0, above))


def _wilson(successes: int, n: int, confidence: float) -> tuple[float, float, float]:
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return successes / n, float(interval.low), float(interval.high)


def difference_of_estimates(a: Estimate, b: Estimate) -> Difference | None:
    """The difference from two intervals alone, as if of independent samples; None if one interval is missing.

    Zou and Donner 2008, Construction of confidence limits about effect measures, Statistics in Medicine 27:
    the distances to the outer ends add in squares. The interval is narrower than a test by overlap, and still
    too wide where the items are the same.
    """
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    value = a.value - b.value
    below = sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    above = sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    if not isfinite(value + below + above):
        return None
    return Difference(value=value, n=min(a.n, b.n), by="intervals", low=value - below, high=value + above)


def difference_over_seeds(
    a: Mapping[int, float], b: Mapping[int, float], *, confidence: float = 0.95
) -> Difference | None:
    """The difference of two methods from values by seed: paired if the seeds are the same, else Welch's t.

    None where a side has only one seed, or a value that is not finite.
    """
    paired = a.keys() == b.keys()
    n = min(len(a), len(b))
    if n < 2 or not all(map(isfinite, (*a.values(), *b.values()))):
        return None
    x, y = np.array(list(a.values())), np.array([b[seed] for seed in (a if paired else b)])
    value = float(x.mean() - y.mean())
    rounding = ROUNDING * float(np.abs([*x, *y]).max())
    if (np.ptp(x - y) if paired else max(np.ptp(x), np.ptp(y))) <= rounding:  # no spread, no interval
        ends = (0.0, 0.0) if abs(value) <= rounding else (None, None)
        return Difference(value=value, n=n, by="seeds", low=ends[0], high=ends[1])
    test = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
    interval = test.confidence_interval(confidence)
    return Difference(value=value, n=n, by="seeds", low=float(interval.low), high=float(interval.high))


def difference_over_strata(parts: Sequence[Difference]) -> Difference | None:
    """The mean of independent differences, as of one pair of models on each of several seeds, from their
    intervals: the distances to the ends add in squares (Zou and Donner 2008). It is of the seeds that there
    are, not of all that could be. None where a part has no interval."""
    ends = [
        (part.value - part.low, part.high - part.value)
        for part in parts
        if part.low is not None and part.high is not None
    ]
    if not parts or len(ends) < len(parts):
        return None
    value = sum(part.value for part in parts) / len(parts)
    below, above = (sqrt(sum(end**2 for end in of_side)) / len(parts) for of_side in zip(*ends, strict=True))
    return Difference(
        value=value, n=sum(part.n for part in parts), by=parts[0].by, low=value - below, high=value + above
    )
