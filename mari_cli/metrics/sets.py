"""The sets of items of the corpora. A metric of answers exists for each set, and the set decides which value
is better: retained answers should stay known, forgotten and unseen answers should be as for the gold model,
which was trained without the forget data."""

from dataclasses import replace
from typing import Any

from mari_cli.metrics.aggregation import Aggregation
from mari_cli.metrics.metric import Metric

SETS = ("forget", "retain", "holdout")
NO_TOKENS = "an answer without tokens is refused"


def on_sets(metric: Metric, **of_set: dict[str, Any]) -> list[Metric]:
    """The entries of a metric of answers, one for each set; ``of_set``: fields that only the entry of one set
    has. The direction of ``metric`` is that of data which should stay known."""
    assert isinstance(metric.aggregate, Aggregation)
    aggregate = metric.aggregate
    return [
        replace(
            metric,
            name=f"{name}/{metric.name}",
            label=f"{name} {metric.label}",
            direction=metric.direction if name == "retain" else "gold",
            aggregate=aggregate.on(name),
            **of_set.get(name, {}),
        )
        for name in SETS
    ]
