"""The trials of a search: what each tried, what came out, which is best and which is in the middle."""

from collections.abc import Sequence
from dataclasses import dataclass

from mari_cli.search.space import Assignment


@dataclass(frozen=True)
class Trial:
    """One run of one method with settings of its own."""

    method: int
    number: int
    """Within the method, from 0."""
    settings: Assignment
    run: str
    """The name of its directory in that of the sweep."""
    value: float | None = None
    """Of the aim; None where the trial failed."""
    cost: float | None = None
    """What the search makes small; None where the trial failed."""
    failed: str | None = None
    """Why there is no value."""


def by_cost(trials: Sequence[Trial]) -> list[Trial]:
    """Those that have a value, the best first; of equals the earlier one."""
    return sorted(
        (trial for trial in trials if trial.cost is not None), key=lambda trial: (trial.cost, trial.number)
    )


def best(trials: Sequence[Trial]) -> Trial | None:
    """None where every trial failed."""
    return next(iter(by_cost(trials)), None)


def middle(trials: Sequence[Trial]) -> Trial | None:
    """The trial in the middle: what somebody gets who does not search. Of an even number the worse of the
    two, and a trial that failed is worse than any other: no method is flattered."""
    ordered = [*by_cost(trials), *(trial for trial in trials if trial.cost is None)]
    found = ordered[len(ordered) // 2] if ordered else None
    return found if found is not None and found.cost is not None else None
