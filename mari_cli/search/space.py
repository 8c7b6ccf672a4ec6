"""What a search may choose: for each key an interval, or a list of values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mari_cli.errors import UserError

Scalar = bool | int | float | str | None
Assignment = dict[str, Scalar]
"""A value for each key."""


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``, both among them; with ``log`` every order of magnitude alike."""

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Whole numbers alone."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"`{self.key}`: the interval {self.ends} has no end", "give two finite numbers")
        if self.low >= self.high:
            raise UserError(
                f"`{self.key}`: the interval {self.ends} is empty",
                f"write the smaller number first: `{self.key}=interval(LOW,HIGH)`",
            )
        if self.log and self.low <= 0:
            raise UserError(
                f"`{self.key}`: an interval with `log` begins above 0, got {self.ends}",
                "choose a small positive number, or leave out `tag(log,…)`",
            )

    @property
    def ends(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def words(self) -> str:
        more = [word for word, is_so in (("log", self.log), ("whole numbers", self.whole)) if is_so]
        return self.ends + (f" ({', '.join(more)})" if more else "")

    @property
    def size(self) -> float:
        """How many values there are."""
        return self.high - self.low + 1 if self.whole else math.inf

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """Values that must be possible, if all are to be."""
        return tuple(int(end) if self.whole else end for end in (self.low, self.high))

    def holds(self, value: Scalar) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (isinstance(value, int) or not self.whole)
        )


@dataclass(frozen=True)
class OneOf:
    """One of several values."""

    key: str
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        told = [written(value) for value in self.values]
        if not told:
            raise UserError(f"`{self.key}`: there is no value to choose", f"write `{self.key}=choice(1,2)`")
        if twice := next((word for word in told if told.count(word) > 1), None):
            raise UserError(f"`{self.key}`: the choice holds {twice} twice", "write each value once")

    @property
    def words(self) -> str:
        return " | ".join(written(value) for value in self.values)

    @property
    def size(self) -> float:
        return len(self.values)

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        return self.values

    def holds(self, value: Scalar) -> bool:
        return any(type(value) is type(known) and value == known for known in self.values)


Range = Interval | OneOf


def combinations(ranges: Sequence[Range]) -> float:
    """How many settings there are; infinity where a range is continuous."""
    return math.prod(of_key.size for of_key in ranges)


def written(value: Scalar) -> str:
    """A value as a user types it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def from_plain(plain: Mapping[str, Any]) -> Range:
    """A range from its fields, as JSON holds them; KeyError or TypeError where it is none."""
    if "values" in plain:
        return OneOf(key=plain["key"], values=tuple(plain["values"]))
    return Interval(**plain)
