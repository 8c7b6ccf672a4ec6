"""The entry of a metric: all that tables, reports, tests and caches need to know of it.

No other place of the package lists names of metrics. To add a metric, write its function and its entry, side
by side; a new file also stands in the lists of metrics/corpora.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mari_cli.metrics.aggregation import Aggregation, ByIntervals
from mari_cli.metrics.version import version_of

Direction = Literal["up", "down", "gold"]
Role = Literal["forgotten", "kept"]
View = Literal["terminal", "overview", "glance", "runs", "followed"]
HEADLINE: frozenset[View] = frozenset({"terminal", "overview", "glance"})


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    """`group/metric`, or `suite/set/metric`."""
    label: str
    description: str
    source: str
    degenerate: str
    """The value where there is nothing to measure, or what happens then."""
    aggregate: Aggregation | ByIntervals
    """How the metric is computed from items, and therefore how it is resampled."""
    unit: str = "fraction"
    """Sentences show values in a `fraction…` or an `accuracy` as percent."""
    direction: Direction = "up"
    """`gold`: the best value is the gold model's."""
    low: float = 0.0
    high: float = 1.0
    """``low`` and ``high`` bound every possible value."""
    role: Role | None = None
    """Whether the verdict uses the metric: `forgotten` is compared with gold, `kept` with the target."""
    distance_term: int | None = None
    """Its rank among the terms of the distance to gold: on the forget side if the best value is gold's, else
    on the kept side. None: no term."""
    headline: int | None = None
    """Its rank among the metrics of a narrow terminal's table; None: only full tables show the metric."""
    views: frozenset[View] = HEADLINE
    """The places of a headline: `runs` is the list of runs, `followed` the log and plots of training. A
    glance shows only shares, of the corpora."""
    says: str = ""
    """The text of a report about the metric; empty: its label."""
    short: str = ""
    """The metric's name inside a sentence, after "on the forget data"; empty: its label."""
    above_gold: str = ""
    below_gold: str = ""
    """The text that a report adds to a value above or below gold's."""
    chance: float | None = None
    """The value of random guessing."""
    elsewhere: tuple[str, ...] = ()
    """Names of the same mean in OpenUnlearning's logs."""

    @property
    def version(self) -> str:
        """A part of every cache key under which values of the metric are stored."""
        return version_of(*self.aggregate.modules)

    @property
    def is_share(self) -> bool:
        return self.unit.startswith("fraction") or self.unit == "accuracy"

    @property
    def is_test(self) -> bool:
        """Whether the metric is the p-value of a test against gold, which is read without a difference."""
        return self.unit == "p-value"


Metrics = Mapping[str, Metric]
"""Metrics by full name."""


def register(entries: Iterable[Metric]) -> Metrics:
    """The entries by full name.

    Raises ValueError for a name that occurs twice, and for an entry that does not say how the metric is
    resampled: two models would silently be compared by a weaker test than their items allow.
    """
    metrics: dict[str, Metric] = {}
    for entry in entries:
        if entry.name in metrics:
            raise ValueError(f"the metric `{entry.name}` is registered twice")
        if not isinstance(entry.aggregate, Aggregation | ByIntervals):
            raise ValueError(
                f"the metric `{entry.name}` does not say how it is made of items: give `aggregate`, or "
                "`ByIntervals` with the reason why items do not give it"
            )
        if not (entry.low < entry.high and entry.unit and entry.label and entry.description):
            raise ValueError(f"the metric `{entry.name}` lacks its range, unit, label or description")
        metrics[entry.name] = entry
    return metrics


# -- names ---------------------------------------------------------------------------------------------------

_LOGGED = {"forget": "memorization", "facts": "memorization", "retain": "utility", "holdout": "utility"}


def logged_as(full_name: str) -> str:
    """The name of a metric in metrics.jsonl and in a tracker, grouped by topic.

    `forget/answer_nll` is `memorization/forget/answer_nll`, `retain/…` is `utility/retain/…`; other names, as
    `privacy/loss_auc` and `benchmark/mmlu`, begin with their topic.
    """
    group = _LOGGED.get(full_name.partition("/")[0])
    return f"{group}/{full_name}" if group else full_name


def as_logged(name: str) -> str:
    """The full name of the metric with the name ``name`` of `logged_as`."""
    group, _, rest = name.partition("/")
    return rest if group in _LOGGED.values() else name
