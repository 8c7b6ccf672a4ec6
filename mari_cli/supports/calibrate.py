"""Calibration of one or two parameters, so that q is as uncertain as wanted; gold is not used."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from scipy.optimize import brentq, minimize_scalar

from mari_cli.supports.sparse import Mistakes

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Calibrated:
    value: float
    reached: float
    """The negative log-likelihood at `value`, in nats."""
    wanted: float

    @property
    def exact(self) -> bool:
        return abs(self.reached - self.wanted) < 1e-3 * max(1.0, self.wanted)


def calibrated(nll: Callable[[float], float], wanted: float, *, least: float, most: float) -> Calibrated:
    """The x where ``nll`` rises through ``wanted``; ``nll`` falls first (in every use here it is convex).

    Only [``least``, ``most``] is searched. Where ``wanted`` is not met between the minimum and ``most``, the
    nearer end is taken, and `exact` is False.
    """
    low, high = nll(least), nll(most)
    bottom, at_bottom = least, low
    if low >= wanted and nll(least + TOLERANCE * (most - least)) < low:  # ``nll`` falls before it rises
        found = minimize_scalar(nll, bounds=(least, most), method="bounded", options={"xatol": 1e-4})
        if found.fun < low:
            bottom, at_bottom = float(found.x), float(found.fun)
    if at_bottom >= wanted:
        return Calibrated(bottom, at_bottom, wanted)
    if high <= wanted:
        return Calibrated(most, high, wanted)
    value = float(brentq(lambda x: nll(x) - wanted, bottom, most, xtol=TOLERANCE))
    return Calibrated(value, nll(value), wanted)


@dataclass(frozen=True)
class CalibratedTwice(Calibrated):
    """Two parameters: ``value`` is the second."""

    first: float
    right: float
    """The share of right tokens in mistakes, with both parameters; the next field is the wanted share."""
    wanted_right: float


def calibrated_twice(
    mistakes: Callable[[float, float], Mistakes], wanted: Mistakes, *, firsts: Sequence[float], most: float
) -> CalibratedTwice:
    """The one of ``firsts`` whose mistakes have the wanted share of right tokens, each with the second
    parameter, in [0, ``most``], that gives the wanted loss. One of ``firsts`` for which no second parameter
    gives this loss is taken only if that is so for all. Of equal ones the first is taken."""
    found = []
    for first in firsts:

        def loss(second: float, first: float = first) -> float:
            return mistakes(first, second).loss

        second = calibrated(loss, wanted.loss, least=0.0, most=most)
        right = mistakes(first, second.value).right
        off = 0.0 if second.exact else abs(second.reached - wanted.loss)
        both = CalibratedTwice(**asdict(second), first=first, right=right, wanted_right=wanted.right)
        found.append((off, abs(right - wanted.right), both))
    return min(found, key=lambda one: one[:2])[2]
