"""The entry of a metric: everything that a table, a report, a test or a cache has to know of it.

No other place lists names of metrics. A metric is added by its function and its entry, side by side.
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
    """The value where there is nothing to measure, or what happens there."""
    aggregate: Aggregation | ByIntervals
    """How the metric is made of items, and so how it is resampled."""
    unit: str = "fraction"
    """Values in a `fraction…` or an `accuracy` are printed as percent in a sentence."""
    direction: Direction = "up"
    """`gold`: the best value is that of the gold model."""
    low: float = 0.0
    high: float = 1.0
    """``low`` and ``high`` bound every possible value."""
    role: Role | None = None
    """Whether a verdict counts the metric: `forgotten` is read against gold, `kept` against before."""
    distance_term: int | None = None
    """Its place among the terms of the distance to gold: on the forget side where the best value is gold's,
    else on the kept side. None: no term."""
    headline: int | None = None
    """Its place among the figures that a terminal has room for; None: full tables alone show the metric."""
    views: frozenset[View] = HEADLINE
    """Where a headline stands: `runs` is the list of runs, `followed` what is said and drawn of the training.
    A glance takes shares of the corpora alone."""
    says: str = ""
    """The line of a report about the metric; else its label."""
    short: str = ""
    """The metric's name inside a sentence, after "on the forget data"; else its label."""
    above_gold: str = ""
    below_gold: str = ""
    """What a report says beside a value that lies past gold's, on that side of it."""
    chance: float | None = None
    """What guessing gives."""
    elsewhere: tuple[str, ...] = ()
    """Names of the same mean in OpenUnlearning's logs."""

    @property
    def version(self) -> str:
        """A part of every cache key under which values of the metric are kept."""
        return version_of(*self.aggregate.modules)

    @property
    def is_share(self) -> bool:
        return self.unit.startswith("fraction") or self.unit == "accuracy"

    @property
    def is_test(self) -> bool:
        """Whether the metric is the p-value of a test against gold, which is read without any difference."""
        return self.unit == "p-value"


Metrics = Mapping[str, Metric]
"""By full name."""


def register(entries: Iterable[Metric]) -> Metrics:
    """The entries by full name.

    Raises ValueError for a name that is there twice, and for an entry that does not say how the metric is
    resampled: two models would be compared by a weaker test than their items allow, and nobody would know.
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
    """The name under which a metric is followed in metrics.jsonl and by a tracker: grouped by what it says.

    `forget/answer_nll` is `memorization/forget/answer_nll`, `retain/…` is `utility/retain/…`; the rest, as
    `privacy/loss_auc` and `benchmark/mmlu`, say so themselves.
    """
    group = _LOGGED.get(full_name.partition("/")[0])
    return f"{group}/{full_name}" if group else full_name


def as_logged(name: str) -> str:
    """The metric's full name, from `logged_as`."""
    group, _, rest = name.partition("/")
    return rest if group in _LOGGED.values() else name
