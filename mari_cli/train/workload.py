"""How much a step has to compute: its positions and tokens, a process's share, and the heaviest of many."""

from collections.abc import Callable

from mari_cli import distributed
from mari_cli.train.step import Group

STEPS_LOOKED_AT = 1000


def heaviest_step(items_at: Callable[[int], Group], steps: int, *, packed: bool) -> Group:
    """The step with the most positions; of many steps so many evenly spaced ones are looked at."""
    return max(
        (items_at(step) for step in sample_steps(steps)), key=lambda groups: count_positions(groups, packed)
    )


def sample_steps(steps: int) -> range:
    return range(0, steps, max(1, steps // STEPS_LOOKED_AT))


def share_of_step(groups: Group, process: int, processes: int) -> Group:
    """What of a step falls to one of ``processes``."""
    return {
        role: [items[i] for i in distributed.share(len(items), of=process, processes=processes)]
        for role, items in groups.items()
    }


def count_positions(groups: Group, packed: bool) -> int:
    """That the backbone computes: the tokens, and the padding where they are not ``packed``."""
    if packed:
        return count_tokens(groups)
    return sum(len(items) * max(len(item.input_ids) for item in items) for items in groups.values() if items)


def count_tokens(groups: Group) -> int:
    return sum(len(item.input_ids) for items in groups.values() for item in items)
