"""Calibration of one or two parameters, so that q is as uncertain as wanted; gold is not used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from scipy.optimize import brentq, minimize_scalar

from mari_cli.progress import track
from mari_cli.supports.sparse import Mistakes

LEAST_POWER, MOST_POWER = 0.05, 16.0
"""Where a power of q is looked for."""
TOLERANCE = 1e-6
CLOSE = 0.05
"""A share of right tokens this near to the wanted one is as good as equal."""


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
class Second:
    """A second parameter: the mistakes of q at a first and this one, and where this one is looked for."""

    mistakes: Callable[[float, float], Mistakes]
    least: float
    most: float
    between: int = 0
    """How many first parameters are tried besides, evenly between the neighbours of the best one."""


@dataclass(frozen=True)
class CalibratedTwice(Calibrated):
    """Two parameters: ``value`` is the second, and ``by`` its name."""

    by: str
    first: float
    right: float
    """The share of right tokens in mistakes, with both parameters; the next field is the wanted share."""
    wanted_right: float


def calibrated_twice(
    seconds: Mapping[str, Second], wanted: Mistakes, *, firsts: Sequence[float]
) -> CalibratedTwice:
    """The one of ``firsts`` whose mistakes have the wanted share of right tokens, each with the value of a
    second parameter that gives the wanted loss.

    ``seconds`` are tried in their order until one comes within `CLOSE` of the wanted share at the wanted
    loss; where none does, the nearest pair is taken, and one that misses the loss only if all do. Of equal
    pairs the first is taken.
    """
    found: list[tuple[float, float, CalibratedTwice]] = []
    for by, second in seconds.items():
        shown = f"calibration, {by}"
        own = [_at(first, by, second, wanted) for first in track(firsts, shown, len(firsts))]
        best = min(range(len(own)), key=lambda i: own[i][:2])
        low, high = firsts[max(best - 1, 0)], firsts[min(best + 1, len(firsts) - 1)]
        step = (high - low) / (second.between + 1)
        finer = [low + step * k for k in range(1, second.between + 1) if step]
        own += [_at(first, by, second, wanted) for first in track(finer, shown, len(finer))]
        found += own
        off, apart, nearest = min(found, key=lambda one: one[:2])
        if off == 0 and apart <= CLOSE:
            break
    return nearest


def _at(first: float, by: str, second: Second, wanted: Mistakes) -> tuple[float, float, CalibratedTwice]:
    """How far the loss and the share of right tokens stay from what is wanted at ``first``, and with what."""
    one = calibrated(
        lambda value: second.mistakes(first, value).loss, wanted.loss, least=second.least, most=second.most
    )
    right = second.mistakes(first, one.value).right
    off = 0.0 if one.exact else abs(one.reached - wanted.loss)
    both = CalibratedTwice(**asdict(one), by=by, first=first, right=right, wanted_right=wanted.right)
    return off, abs(right - wanted.right), both
