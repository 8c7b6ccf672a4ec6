"""A measured number with its interval and its number of items n."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``low`` and ``high`` are None where no interval is defined, as for a single item."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class OverSeeds(Estimate):
    """A mean over runs that differ in their seed alone; ``n``: items of one run."""

    values: dict[int, float]
    """The value of each seed."""
