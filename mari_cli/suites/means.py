"""Metrics of a suite that are means over the items of one set, as their entries define."""

from collections.abc import Iterable, Sequence

from mari_cli.metrics.aggregation import Aggregation, mean
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import item_values
from mari_cli.metrics.metric import Metric
from mari_cli.metrics.statistics import How, mean_estimate
from mari_cli.suites.suite import Row


def means(metrics: Iterable[Metric], rows: Sequence[Row], how: How) -> dict[str, Estimate]:
    """By full name, those of ``metrics`` that are means over one set in which all rows have the value."""
    sets: dict[str, list[Row]] = {}
    for row in rows:
        sets.setdefault(row["set"], []).append(row)
    items = {name: [item_values({"model": ""} | row) for row in of_set] for name, of_set in sets.items()}
    found = {}
    for metric in metrics:
        aggregate = metric.aggregate
        if not isinstance(aggregate, Aggregation) or aggregate.combine is not mean:
            continue
        [column], [name] = aggregate.columns, aggregate.sets
        try:
            values = [column.of(item) for item in items.get(name, [])]
        except KeyError:
            continue
        if values:
            found[metric.name] = mean_estimate(values, how)
    return found
