"""Metrics of a model beside others: how far it is from gold, and what moved that nobody has seen."""

from dataclasses import replace
from math import inf

from mari_cli.metrics.metric import Metric

DISTANCE = "distance_to_gold"
"""It has no group: it is of all of them."""
FORGET_SIDE, KEPT_SIDE = SIDES = (f"{DISTANCE}/forget_side", f"{DISTANCE}/kept_side")
"""What it is the sum of."""

_DISTANCE = Metric(
    name=DISTANCE,
    label="distance to gold",
    unit="1",
    direction="down",
    low=0.0,
    high=inf,
    description="forget side + kept side: how far from gold on the forget data, of the way from target to "
    "gold, and what was lost of what should be kept",
    source="this project",
    degenerate="absent without target and gold; NaN for a model with a value that is not finite",
)
_DRIFT = Metric(
    name="holdout/nll_from_target",
    label="holdout answer NLL less the target's",
    unit="nats/token",
    direction="gold",
    low=-inf,
    high=inf,
    description="how far the loss of data that no model saw has moved since before, on the same items",
    source="this project",
    degenerate="0 for the target itself; absent without a target",
)

DISTANCE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _DISTANCE,
        replace(
            _DISTANCE,
            name=FORGET_SIDE,
            label="distance to gold, forget side",
            description="mean over forget NLL, token accuracy, exact match, ROUGE-L, loss AUC and "
            "unique-fact recall of |x - gold| / |target - gold|, where target and gold are separable: 0 as "
            "gold, 1 as far as the target",
        ),
        replace(
            _DISTANCE,
            name=KEPT_SIDE,
            label="distance to gold, kept side",
            description="mean over retain exact match, token accuracy, ROUGE-L, shared-fact recall and model "
            "utility of max(0, target - x) / target: the share of what should be kept that is lost",
        ),
    )
}
"""By full name."""

DRIFT_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _DRIFT,
        replace(
            _DRIFT,
            name="holdout/nll_from_gold",
            label="holdout answer NLL less gold's",
            description="how far the loss of data that no model saw is from the gold model's, on the same "
            "items",
            degenerate="0 for gold itself; absent without a gold model",
        ),
        replace(
            _DRIFT,
            name="privacy/loss_auc_from_gold",
            label="loss AUC less gold's",
            unit="ROC AUC",
            low=-1.0,
            high=1.0,
            description="how much more (above 0) or less forget data looks trained on than it does to the "
            "gold model, on the same items",
            degenerate="0 for gold itself; absent without a gold model or a holdout",
        ),
    )
}
"""By full name."""
