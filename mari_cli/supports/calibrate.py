"""One number, so that what is supported is as unsure as it should be: without a look at gold."""

from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq, minimize_scalar

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Calibrated:
    value: float
    reached: float
    """The negative log-likelihood with it, in nats."""
    wanted: float

    @property
    def exact(self) -> bool:
        return abs(self.reached - self.wanted) < 1e-3 * max(1.0, self.wanted)


def calibrated(nll: Callable[[float], float], wanted: float, *, least: float, most: float) -> Calibrated:
    """Where ``nll``, which falls and then rises (it is convex in every use here), rises through ``wanted``.

    Beyond ``least`` and ``most`` nobody looks: where ``wanted`` is not met between the bottom and ``most``,
    the nearer end is taken, and `exact` is False.
    """
    low, high = nll(least), nll(most)
    bottom, at_bottom = least, low
    if low >= wanted and nll(least + TOLERANCE * (most - least)) < low:  # it falls before it rises
        found = minimize_scalar(nll, bounds=(least, most), method="bounded", options={"xatol": 1e-4})
        if found.fun < low:
            bottom, at_bottom = float(found.x), float(found.fun)
    if at_bottom >= wanted:
        return Calibrated(bottom, at_bottom, wanted)
    if high <= wanted:
        return Calibrated(most, high, wanted)
    value = float(brentq(lambda x: nll(x) - wanted, bottom, most, xtol=TOLERANCE))
    return Calibrated(value, nll(value), wanted)
