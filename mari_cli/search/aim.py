"""What a search is for: the figure of a finished run by which one trial is better than another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

BESIDE = {"target": "before", "model": "now", "unlearned": "now", "gold": "gold"}
"""All models that a result may have, by role: as a reader meets them, and in the order of a report."""
OURS = ("unlearned", "model")
"""Roles of the models that a run itself makes."""
Towards = Literal["down", "up", "gold"]
WORDS: dict[Towards, str] = {"down": "smallest", "up": "largest", "gold": "as gold's"}


@dataclass(frozen=True)
class Aim:
    """``direction``: `down` is the smallest value, `up` the largest, `gold` the one nearest to gold's."""

    metric: str
    direction: Towards

    @property
    def words(self) -> str:
        return f"{self.metric}, {WORDS[self.direction]}"

    def value(self, result: Mapping[str, Any]) -> float | None:
        """The figure of a run, from its result; None where it was not measured, or is not finite."""
        models = result["models"]
        ours: Mapping[str, Any] = next((models[role]["metrics"] for role in OURS if role in models), {})
        return _finite(ours.get(self.metric))

    def cost(self, result: Mapping[str, Any]) -> float | None:
        """What the search makes as small as it can."""
        value = self.value(result)
        if value is None or self.direction == "down":
            return value
        if self.direction == "up":
            return -value
        gold = _finite(result["models"].get("gold", {}).get("metrics", {}).get(self.metric))
        return None if gold is None else abs(value - gold)


def _finite(estimate: Mapping[str, Any] | None) -> float | None:
    value = None if estimate is None else estimate.get("value")
    return float(value) if value is not None and math.isfinite(value) else None
