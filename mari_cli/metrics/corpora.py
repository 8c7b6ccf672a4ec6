"""Every metric of a run's own corpora. Entries of metrics whose functions load torch or scipy are in this
file, other entries are beside their functions."""

from dataclasses import replace
from math import inf, log

from mari_cli.metrics import gap, generation, likelihood, membership, memorization
from mari_cli.metrics.aggregation import Aggregation, ByIntervals, Column
from mari_cli.metrics.metric import Metric
from mari_cli.metrics.sets import SETS

DISTANCE = "distance_to_gold"
"""This metric has no group, because it combines several groups."""
FORGET_SIDE, KEPT_SIDE = f"{DISTANCE}/forget_side", f"{DISTANCE}/kept_side"
"""The two terms of the distance."""
GROUPS = {
    DISTANCE: "Distance to gold, in one figure",
    "forget": "Forget data",
    "facts": "Facts about the forgotten",
    "privacy": "Membership inference, forget against holdout",
    "retain": "Retain data",
    "holdout": "Holdout: data no model saw",
    "marginal": "Marginal information",
    "benchmark": "Benchmarks",
}
"""Headings of the metrics that belong to no suite, by the first part of their name."""


def suite_of(name: str) -> str | None:
    """The suite of the metric with this full name; None for a metric of the corpora."""
    beginning = name.split("/")[0]
    return None if beginning in GROUPS else beginning


_DISTANCE = Metric(
    name=DISTANCE,
    label="distance to gold",
    unit="1",
    direction="down",
    high=inf,
    description="forget side + kept side: how far from gold on the forget data, of the way from target to "
    "gold, and what was lost of what should be kept",
    source="this project",
    degenerate="absent without target and gold; NaN for a model with a value that is not finite",
    aggregate=ByIntervals(
        "it takes the items of three models (`difference_of_distances`)", ("mari_cli.metrics.distance",)
    ),
    headline=0,
    views=frozenset({"terminal", "overview", "runs"}),
)
_DISTANCES = [
    _DISTANCE,
    replace(
        _DISTANCE,
        name=FORGET_SIDE,
        label="distance to gold, forget side",
        description="mean of |x - gold| / |target - gold| over the metrics of the forget data by which "
        "target and gold are separable: 0 as gold, 1 as far as the target",
        headline=10,
        views=frozenset({"terminal"}),
    ),
    replace(
        _DISTANCE,
        name=KEPT_SIDE,
        label="distance to gold, kept side",
        description="mean of max(0, target - x) / target over the metrics of what should be kept: the share "
        "of it that is lost",
        headline=20,
        views=frozenset({"terminal"}),
    ),
]

FROM_TARGET, FROM_GOLD = "holdout/nll_from_target", "holdout/nll_from_gold"
AUC_FROM_GOLD = "privacy/loss_auc_from_gold"
_DRIFT = Metric(
    name=FROM_TARGET,
    label="holdout answer NLL less the target's",
    unit="nats/token",
    direction="gold",
    low=-inf,
    high=inf,
    description="how far the loss of data that no model saw has moved since before, on the same items",
    source="this project",
    degenerate="0 for the target itself; absent without a target",
    aggregate=ByIntervals("it is a difference of two models by items itself", ("mari_cli.metrics.drift",)),
    headline=110,
)
_DRIFTS = [
    _DRIFT,
    replace(
        _DRIFT,
        name=FROM_GOLD,
        label="holdout answer NLL less gold's",
        description="how far the loss of data that no model saw is from the gold model's, on the same items",
        degenerate="0 for gold itself; absent without a gold model",
        headline=120,
        views=frozenset({"terminal"}),
    ),
    replace(
        _DRIFT,
        name=AUC_FROM_GOLD,
        label="loss AUC less gold's",
        unit="ROC AUC",
        low=-1.0,
        high=1.0,
        description="how much more (above 0) or less forget data looks trained on than it does to the gold "
        "model, on the same items",
        degenerate="0 for gold itself; absent without a gold model or a holdout",
        headline=130,
    ),
]

_OF_TOKENS = ByIntervals(
    "it takes predictions at every token, which no run keeps",
    ("mari_cli.metrics.marginal", "mari_cli.metrics.bound"),
)
_POOLED = Metric(
    name="marginal/pooled",
    label="marginal information, pooled",
    unit="nats",
    direction="down",
    high=log(2),
    description="what one token tells of whether forget data took part: I(X;Z) of the mean predictions "
    "over the whole retain and forget sets",
    source="Xu, Ni, Broecker, Strohmer 2025 (Forgetting-MarI), weighting ours",
    degenerate="0 when the mean predictions coincide; biased upwards by finite sets",
    aggregate=_OF_TOKENS,
)
_TV = Metric(
    name="marginal/tv",
    label="total variation",
    direction="down",
    description="total variation between the pooled predictions of retain and of retain + forget",
    source="standard",
    degenerate="0 when the predictions coincide",
    aggregate=_OF_TOKENS,
)
_MARGINAL = [
    _POOLED,
    replace(
        _POOLED,
        name="marginal/token",
        label="marginal information, by position",
        description="I(X;Z|C) with C the position in the answer, over the whole retain and forget sets",
        degenerate="a position that only one set reaches adds 0; biased upwards by finite sets",
    ),
    replace(
        _POOLED,
        name="marginal/support",
        label="marginal information, against the support",
        description="mean over forget positions of I(X;Z) between what the retain data supports there "
        "(`loss.support`) and its mixture with the prediction; followed during training alone",
        source="Xu, Ni, Broecker, Strohmer 2025 (Forgetting-MarI), support ours",
        degenerate="0 where the prediction is the support; absent for a loss without one",
    ),
    replace(
        _TV,
        name="marginal/fano_accuracy_bound",
        label="detector accuracy, Fano bound",
        low=0.5,
        description="no detector that sees one token is right more often; from the pooled information",
        source="Fano 1961",
        degenerate="the larger prior (0.5) at zero information",
    ),
    replace(
        _TV,
        name="marginal/bayes_accuracy",
        label="detector accuracy, best possible",
        low=0.5,
        description="accuracy of the best detector that sees one token, 1/2 + TV/2; never above Fano's bound",
        source="Bayes detector between the two pooled predictions",
        degenerate="the larger prior (0.5) when the predictions coincide",
    ),
    _TV,
]

_OF_ANSWERS = [*likelihood.METRICS, *memorization.METRICS, *gap.METRICS, *generation.METRICS]
METRICS = [
    *_DISTANCES,
    *(metric for name in SETS for metric in _OF_ANSWERS if metric.name.startswith(f"{name}/")),
    *membership.METRICS,
    *_DRIFTS,
    *_MARGINAL,
    *generation.FACTS,
]
SCORED: dict[str, Column] = {
    column.name: column
    for metric in METRICS
    if isinstance(metric.aggregate, Aggregation)
    for column in metric.aggregate.columns
    if column.score is not None
}
"""Columns by name that are computed from the tokens of one answer."""
