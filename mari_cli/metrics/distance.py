"""How far from gold, in one figure: what is left to forget, and what was lost that should be kept.

    forget side = mean over metrics m of |x - gold| / |target - gold|          0: as gold, 1: as the target
    kept side   = mean over metrics m of max(0, target - x) / target           0: nothing lost
    distance    = forget side + kept side

x, target and gold are the values of m for the model, for the model before unlearning and for the one that
never saw the forget data. Which metrics enter is decided by what was measured of target and gold alone, so
that it is the same for every model unlearned from that target. A metric by which the paired test
(`difference`) does not tell target and gold apart has nothing to forget by, and its ratio would be noise over
noise: it is left out of the forget side.

The interval is a bootstrap over items, drawn once for all three models and all metrics. A mean of absolute
values is larger under resampling than it is, and near gold its percentiles do not even hold the value. So
what is resampled is how far the signed ratios stray from those found: a distance is never further from its
own value than they are on average, and the quantile of that, to both sides of the value, covers it (as in
`forget_quality`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.corpora import DISTANCE, FORGET_SIDE, KEPT_SIDE
from mari_cli.metrics.difference import Difference, paired_difference
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import ItemValues, Resamplable, take_apart, what_differs
from mari_cli.metrics.joint import distinct_items, resampled
from mari_cli.metrics.metric import Metrics
from mari_cli.metrics.statistics import How

NOT_MEASURED = "not measured"

Models = Mapping[str, Sequence[ItemValues]]
"""Items by role; `target` and `gold` among them."""


@dataclass(frozen=True)
class Entered:
    """Which metrics a distance is of; ``left_out``: of those that might be, why not, in a few words."""

    forget: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def metrics(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Distances over the same metrics are one figure."""
        return self.forget, self.kept


def to_gold(value: Any, gold: Any, target: Any) -> Any:
    """(x - gold) / |target - gold|, with its sign: beyond 0 on the target's side, or past gold."""
    return (value - gold) / np.abs(target - gold)


def lost(value: Any, target: Any) -> Any:
    """(target - x) / target: the share of the target's value that is gone, negative where there is more."""
    return (target - value) / target


def choose_metrics(
    target: Sequence[ItemValues], gold: Sequence[ItemValues], how: How, metrics: Metrics
) -> Entered:
    """Which of ``metrics`` enter a distance to ``gold`` from a model unlearned from ``target``: on the forget
    side those that should be as gold's, on the kept side those that should not fall below the target's."""
    left_out: dict[str, str] = {}
    forget, kept = [], []
    terms = [metric for metric in metrics.values() if metric.distance_term is not None]
    for metric in sorted(terms, key=lambda metric: metric.distance_term or 0):
        name, before, best = metric.name, take_apart(metric, target), take_apart(metric, gold)
        if before is None or best is None:
            left_out[name] = NOT_MEASURED
        elif metric.direction == "gold":
            apart = paired_difference(before, best, how)
            if apart.separable:
                forget.append(name)
            else:
                left_out[name] = "target and gold are not separable by it"
        elif before.value == 0:
            left_out[name] = "0 for the target: there is nothing to lose"
        else:
            kept.append(name)
    return Entered(tuple(forget), tuple(kept), left_out)


def distances_to_gold(
    models: Models, entered: Entered, how: How, metrics: Metrics
) -> dict[str, dict[str, Estimate]]:
    """By role, the distance and its two sides by full name: those whose metrics there are.

    The target is at 1 and gold at 0 of the forget side, whatever is drawn. A model that lacks a value of one
    of the metrics, or has one that is not finite, is at no finite distance: NaN, never a mean of the rest.
    """
    parts = {
        (role, name): part
        for role, items in models.items()
        for name in (*entered.forget, *entered.kept)
        if name in metrics and (part := take_apart(metrics[name], items)) is not None
    }
    if not parts:
        return {role: {} for role in models}
    draws = resampled(parts, resamples=how.resamples, seed=how.seed)
    values = {key: part.value for key, part in parts.items()}
    n = distinct_items(parts.values())
    return {role: _of_model(role, entered, values, draws, n, how.confidence) for role in models}


def difference_of_distances(
    ours: tuple[str, Models], theirs: tuple[str, Models], entered: Entered, how: How, metrics: Metrics
) -> dict[str, Difference]:
    """The distance and its sides of one model less those of another, by full name; each model is given as its
    role among the models of its run. Items are drawn once for both runs, percentile interval.

    Empty where the two runs did not measure the same items, or a value is not finite.
    """
    names = (*entered.forget, *entered.kept)
    parts: dict[tuple[str, str], Resamplable] = {}
    for run, (role, models) in (("ours", ours), ("theirs", theirs)):
        for of in _with_yardsticks(role):
            for name in names:
                part = take_apart(metrics[name], models.get(of, ())) if name in metrics else None
                if part is None or any(
                    what_differs(part, other) for (_, of_name), other in parts.items() if of_name == name
                ):
                    return {}
                parts[f"{run} {of}", name] = part
    draws = resampled(parts, resamples=how.resamples, seed=how.seed)
    values = {key: part.value for key, part in parts.items()}

    def apart(of: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
        a, b = (
            _distances(
                role,
                entered,
                {(it, name): of[f"{run} {it}", name] for it in _with_yardsticks(role) for name in names},
            )
            for run, (role, _) in (("ours", ours), ("theirs", theirs))
        )
        return {side: a[side] - b[side] for side in a}

    found, n = {}, distinct_items(parts.values())
    of_draws = apart(draws)
    for side, value in apart(values).items():
        low, high = np.quantile(of_draws[side], [(1 - how.confidence) / 2, (1 + how.confidence) / 2])
        ends = (float(low), float(high)) if np.isfinite([low, high]).all() else (None, None)
        found[side] = Difference(value=float(value), n=n, by="items", low=ends[0], high=ends[1])
    return found


def _with_yardsticks(role: str) -> list[str]:
    """Roles that a distance of the model of that role is made of, each once."""
    return list(dict.fromkeys((role, "target", "gold")))


def _of_model(
    role: str,
    entered: Entered,
    values: Mapping[tuple[str, str], float],
    draws: Mapping[tuple[str, str], Floats],
    n: int,
    confidence: float,
) -> dict[str, Estimate]:
    names = _names(entered)
    if any((role, name) not in values for of_side in names.values() for name in of_side):
        return {side: Estimate(value=nan, n=n) for side in _whole(dict.fromkeys(names, 0.0))}
    found = {side: _signed(role, side, of_side, values) for side, of_side in names.items()}
    strayed = {
        side: np.abs(_signed(role, side, of_side, draws) - found[side]).mean(axis=-1)
        for side, of_side in names.items()
    }
    reach = _whole(strayed)
    return {
        side: _within(float(value), reach[side], n, confidence)
        for side, value in _distances(role, entered, values).items()
    }


def _names(entered: Entered) -> dict[str, tuple[str, ...]]:
    """By side, what entered it; without a side that nothing entered."""
    sets = ((FORGET_SIDE, entered.forget), (KEPT_SIDE, entered.kept))
    return {side: of_side for side, of_side in sets if of_side}


def _distances(role: str, entered: Entered, values: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """The distance and its sides: from values, or from those of each draw."""
    sides = {}
    for side, names in _names(entered).items():
        signed = _signed(role, side, names, values)
        sides[side] = (np.abs(signed) if side == FORGET_SIDE else np.maximum(0.0, signed)).mean(axis=-1)
    return _whole(sides)


def _whole(sides: Mapping[str, Any]) -> dict[str, Any]:
    """With their sum, where there are both."""
    return ({DISTANCE: sides[FORGET_SIDE] + sides[KEPT_SIDE]} if len(sides) == 2 else {}) | dict(sides)


def _signed(role: str, side: str, names: Sequence[str], values: Mapping[tuple[str, str], Any]) -> Floats:
    """The ratio of each metric [..., metrics]; not finite in a draw in which target and gold meet."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            to_gold(values[role, name], values["gold", name], values["target", name])
            if side == FORGET_SIDE
            else lost(values[role, name], values["target", name])
            for name in names
        ]
    return np.stack([np.asarray(ratio, dtype=np.float64) for ratio in ratios], axis=-1)


def _within(value: float, strayed: Floats, n: int, confidence: float) -> Estimate:
    reach = float(np.quantile(np.nan_to_num(strayed, nan=np.inf), confidence, method="higher"))
    if not np.isfinite(value + reach):
        return Estimate(value=value, n=n)
    return Estimate(value=value, n=n, low=max(0.0, value - reach), high=value + reach)
