"""Joint resampling: several metrics of several models from the same draws of items, so that a value computed
from all of them gets one interval.

An item is in several samples: a forget item is in that of the forget loss, in that of the AUC, and, if its
fact is unique, in that of the recall of unique facts. Items that are in the same samples are a stratum. Each
stratum is resampled on its own and keeps its size; its draw serves all its samples, metrics and models.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from mari_cli.metrics.arrays import Floats, Indices
from mari_cli.metrics.items import Identity, Resamplable
from mari_cli.metrics.statistics import ROWS_AT_ONCE

K = TypeVar("K")


def resampled(parts: Mapping[K, Resamplable], *, resamples: int, seed: int) -> dict[K, Floats]:
    """The value of every part in each of ``resamples`` draws [draws]; draw i is the same for all parts."""
    samples = list(dict.fromkeys(items for part in parts.values() for items in part.items))
    number_of = {items: number for number, items in enumerate(samples)}
    wanted = {key: [number_of[items] for items in part.items] for key, part in parts.items()}
    places = [{identity: place for place, identity in enumerate(items)} for items in samples]
    strata = [
        [(number, np.array([places[number][identity] for identity in stratum])) for number in numbers]
        for numbers, stratum in _strata(samples).items()
    ]
    rows = max(1, ROWS_AT_ONCE // sum(of_set.size for part in parts.values() for of_set in part.values))
    generator = np.random.default_rng(seed)
    found: dict[K, list[Floats]] = {key: [] for key in parts}
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn: list[list[Indices]] = [[] for _ in samples]
        for stratum in strata:
            size = len(stratum[0][1])
            chosen = generator.integers(size, size=(count, size))
            for number, places_in_sample in stratum:
                drawn[number].append(places_in_sample[chosen])
        draws = [np.concatenate(of_sample, axis=-1) for of_sample in drawn]
        for key, part in parts.items():
            found[key].append(np.asarray(part.of(tuple(draws[number] for number in wanted[key]))))
    return {key: np.concatenate(values) for key, values in found.items()}


def _strata(samples: list[tuple[Identity, ...]]) -> dict[tuple[int, ...], list[Identity]]:
    """The items by the numbers of their samples."""
    held: dict[Identity, list[int]] = {}
    for number, items in enumerate(samples):
        for identity in items:
            held.setdefault(identity, []).append(number)
    strata: dict[tuple[int, ...], list[Identity]] = {}
    for identity, numbers in held.items():
        strata.setdefault(tuple(numbers), []).append(identity)
    return strata


def distinct_items(parts: Iterable[Resamplable]) -> int:
    """The number of items in all ``parts``, each item counted once."""
    return len({identity for part in parts for items in part.items for identity in items})
