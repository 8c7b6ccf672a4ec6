"""Model utility: how well a model still answers, in one number (TOFU, Maini et al. 2024,
https://arxiv.org/abs/2401.06121).

It is the harmonic mean of the mean probability, ROUGE-L recall and truth ratio on several sets of questions,
so it is near 0 if one of them is.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import HOW, How, mean_estimate


def model_utility(components: Sequence[float]) -> float:
    """Harmonic mean, in [0, 1]; 0 if a component is 0. Raises ValueError if one is below 0 or not finite."""
    values = np.asarray(components, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"expected components of at least 0, got {list(components)}")
    return float(harmonic_mean(values))


def model_utility_estimate(sets: Sequence[Floats], how: How = HOW) -> Estimate:
    """The utility of ``sets`` of values_NC: N items of one set with the same C components; n is the sum of N.

    Bootstrap: each set's items are resampled within the set, an item with all of its components. Where every
    resample is 0, the upper end is the utility of the upper ends of all components, with Wilson's interval
    for a component that is 0 on every item.
    """
    value = model_utility([mean for values_NC in sets for mean in values_NC.mean(axis=0)])
    n = sum(len(values_NC) for values_NC in sets)
    generator = np.random.default_rng(how.seed)
    means = []
    for values_NC in sets:
        size = len(values_NC)
        draws = generator.multinomial(size, np.full(size, 1 / size), size=how.resamples)
        means.append(draws @ values_NC / size)
    low, high = np.quantile(
        harmonic_mean(np.concatenate(means, axis=1)), [(1 - how.confidence) / 2, (1 + how.confidence) / 2]
    )
    if high == 0 and all(len(values_NC) > 1 for values_NC in sets):
        estimates = [mean_estimate(values_N, how) for values_NC in sets for values_N in values_NC.T]
        high = model_utility([e.value if e.high is None else e.high for e in estimates])
    if low == high:
        return Estimate(value=value, n=n)
    return Estimate(value=value, n=n, low=float(low), high=float(high))


def harmonic_mean(values: Floats) -> Floats:
    """The harmonic mean over the last axis; 0 where a value is 0."""
    return np.asarray(stats.hmean(values, axis=-1))
