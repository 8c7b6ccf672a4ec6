"""Random draws in measuring: the choice of items and of questions.

Nothing else is random: scores and greedy answers are deterministic. So the items of several draws
(`metrics.seeds`) are taken together, and an item in two draws counts once. The mean of the draws' results
would count it twice without reason. Given the items of all draws, every item is equally likely to be drawn
twice, so the mean over these items is the expectation of the mean over draws, and by Rao and Blackwell its
error is never larger. The items of all draws are a simple random sample too, so the bootstrap over them
covers the randomness of draws and of items; the spread between draws that share items would not.
"""

import random
from collections.abc import Sequence

from mari_cli.config import MetricsConfig


def seeds_of(config: MetricsConfig, seed: int) -> list[int]:
    """The seeds of the draws: `metrics.seeds` if set, else the run's seed."""
    return [seed] if config.seeds is None else config.seeds


def drawn(count: int, limit: int | None, seeds: Sequence[int]) -> list[int]:
    """Sorted places of the union of draws, one per seed, of at most ``limit`` of ``count`` things."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted({place for seed in seeds for place in random.Random(seed).sample(range(count), limit)})
