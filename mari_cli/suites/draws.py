"""What chance decides in measuring: which items are measured, which questions are asked.

Nothing else does: scores and greedy answers have no chance in them. So several draws (`metrics.seeds`) are
taken together, and an item that two of them have counts once. The mean of the draws' results would weigh it
twice for nothing. Given the items of all draws, every item is as likely as any other to have been drawn
twice, so the mean over the items is what the mean over the draws is on average: by Rao and Blackwell it is
never further from the truth. And the items of all draws are themselves a simple random sample, so that the
bootstrap over them covers both what the draws and what the items leave to chance; the spread between draws
that share items would not.
"""

import random
from collections.abc import Sequence

from mari_cli.config import MetricsConfig


def seeds_of(config: MetricsConfig, seed: int) -> list[int]:
    """The seeds that draw what is measured: those asked for, else the run's."""
    return [seed] if config.seeds is None else config.seeds


def drawn(count: int, limit: int | None, seeds: Sequence[int]) -> list[int]:
    """Places of at most ``limit`` of ``count`` things for each seed, all draws together, in order."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted({place for seed in seeds for place in random.Random(seed).sample(range(count), limit)})
