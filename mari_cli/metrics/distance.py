"""The distance to gold in one number: what is left to forget, and what was lost that should be kept.

    forget side = mean over metrics m of |x - gold| / |target - gold|          0: as gold, 1: as the target
    kept side   = mean over metrics m of max(0, target - x) / target           0: nothing lost
    distance    = forget side + kept side

x, target and gold are the values of m for the model, for the model before unlearning and for the model that
never saw the forget data. The values of target and gold alone decide which metrics enter, so the same metrics
enter for every model unlearned from that target. If the paired test (`difference`) does not separate target
and gold by a metric, its ratio would be noise over noise, and it is left out of the forget side. So is a
metric left out of the kept side, if the target has so little of it that a draw of its items may hold nothing.

The interval is a bootstrap over items, with one draw for all three models and all metrics. A mean of absolute
values is biased upwards under resampling, and near gold its percentile interval may exclude the value. So the
deviations of the signed ratios from their measured values are resampled. A distance deviates from its value
at most by their mean deviation, and the quantile of this, on both sides of the value, covers it (as in
`forget_quality`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, nan
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
"""Items by role; the roles include `target` and `gold`."""


@dataclass(frozen=True)
class Entered:
    """The metrics of a distance; ``left_out``: the reason why a metric is no part of it, in a few words."""

    forget: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def metrics(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The key by which two distances are comparable: they need the same metrics."""
        return self.forget, self.kept


def to_gold(value: Any, gold: Any, target: Any) -> Any:
    """(x - gold) / |target - gold|, signed. The sign says on which side of gold the value lies."""
    return (value - gold) / np.abs(target - gold)


def lost(value: Any, target: Any) -> Any:
    """(target - x) / target: the lost share of the target's value, negative where the value rose."""
    return (target - value) / target


def choose_metrics(
    target: Sequence[ItemValues], gold: Sequence[ItemValues], how: How, metrics: Metrics
) -> Entered:
    """Those of ``metrics`` that enter a distance to ``gold`` from a model unlearned from ``target``. Forget
    side: metrics that should equal gold's. Kept side: metrics that should not fall below the target's."""
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
                left_out[name] = "target and gold do not differ clearly in it"
        elif before.value == 0:
            left_out[name] = "0 for the target: there is nothing to lose"
        elif _may_be_nothing(before, how):
            left_out[name] = (
                "so little for the target that no loss can be seen: its items, resampled, reach 0"
            )
        else:
            kept.append(name)
    return Entered(tuple(forget), tuple(kept), left_out)


def _may_be_nothing(part: Resamplable, how: How) -> bool:
    """Whether the bootstrap interval over items of a value above 0 reaches 0."""
    drawn = resampled({"": part}, resamples=how.resamples, seed=how.seed)[""]
    return bool(np.quantile(drawn, (1 - how.confidence) / 2) <= 0)


def distances_to_gold(
    models: Models, entered: Entered, how: How, metrics: Metrics
) -> dict[str, dict[str, Estimate]]:
    """By role, the distance and its two sides by full name; a side without metrics is missing.

    On the forget side the target is at 1 and gold at 0 in every draw. A model with a missing or not finite
    value of a metric has the distance NaN, not a mean of the other metrics.
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


@np.errstate(invalid="ignore")  # draws in which target and gold are equal: ∞ - ∞
def difference_of_distances(
    ours: tuple[str, Models], theirs: tuple[str, Models], entered: Entered, how: How, metrics: Metrics
) -> dict[str, Difference]:
    """The distance and its sides of one model minus those of another, by full name; a model is given as its
    role among the models of its run. One draw of items serves both runs; percentile interval.

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
    """The roles from which the distance of the model with ``role`` is computed, each once."""
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
    """The metrics of each side; a side without metrics is missing."""
    sets = ((FORGET_SIDE, entered.forget), (KEPT_SIDE, entered.kept))
    return {side: of_side for side, of_side in sets if of_side}


def _distances(role: str, entered: Entered, values: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """The distance and its sides, from values or from the values of each draw."""
    sides = {}
    for side, names in _names(entered).items():
        signed = _signed(role, side, names, values)
        sides[side] = (np.abs(signed) if side == FORGET_SIDE else np.maximum(0.0, signed)).mean(axis=-1)
    return _whole(sides)


def _whole(sides: Mapping[str, Any]) -> dict[str, Any]:
    """``sides`` and their sum, if both sides are there."""
    return ({DISTANCE: sides[FORGET_SIDE] + sides[KEPT_SIDE]} if len(sides) == 2 else {}) | dict(sides)


def _signed(role: str, side: str, names: Sequence[str], values: Mapping[tuple[str, str], Any]) -> Floats:
    """The ratio of each metric [..., metrics]; not finite in a draw in which target and gold are equal."""
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
    down_to_gold = reach > value or isclose(reach, value)  # a difference of roundings is no distance
    return Estimate(value=value, n=n, low=0.0 if down_to_gold else value - reach, high=value + reach)
