"""A measured number is never alone: value, interval, n."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``low`` and ``high`` are None where no interval is defined (a single item, say)."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class OverSeeds(Estimate):
    """A mean over runs that differ in nothing but their seed; ``n``: items of one run."""

    values: dict[int, float]
    """By seed."""
