"""What it takes to print a number: its name, unit, direction, range, source and degenerate value."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down", "gold"]


@dataclass(frozen=True)
class Metric:
    """``low`` and ``high`` bound every possible value; ``direction`` `gold`: best = the gold model's."""

    name: str
    label: str
    unit: str
    direction: Direction
    low: float
    high: float
    description: str
    source: str
    degenerate: str
