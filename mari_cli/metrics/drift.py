"""The drift of the loss on unseen data, which should stay as before unlearning and equal gold's.

If the forget loss rises to gold's only because all losses rise, that is no forgetting: the loss detector,
which compares forget and holdout, still finds the forget data. So the holdout loss is compared with the
target's and gold's, and the AUC with gold's, each as a paired difference on the same items.
"""

from collections.abc import Mapping, Sequence

from mari_cli.metrics.corpora import AUC_FROM_GOLD, FROM_GOLD, FROM_TARGET, METRICS
from mari_cli.metrics.difference import paired_difference
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import ItemValues, take_apart
from mari_cli.metrics.statistics import How

_OF = {metric.name: metric for metric in METRICS}
_UNSEEN_LOSS, _LOSS_AUC = _OF["holdout/answer_nll"], _OF["privacy/loss_auc"]
DRIFTS = {
    FROM_TARGET: (_UNSEEN_LOSS, "target"),
    FROM_GOLD: (_UNSEEN_LOSS, "gold"),
    AUC_FROM_GOLD: (_LOSS_AUC, "gold"),
}
"""By full name: the metric, and the role of the model whose value is subtracted."""


def drifts(models: Mapping[str, Sequence[ItemValues]], how: How) -> dict[str, dict[str, Estimate]]:
    """By role, every drift that the items of the model and of the other model allow."""
    found: dict[str, dict[str, Estimate]] = {role: {} for role in models}
    for name, (metric, other) in DRIFTS.items():
        theirs = take_apart(metric, models.get(other, ()))
        for role, items in models.items():
            own = take_apart(metric, items)
            if own is None or theirs is None:
                continue
            apart = paired_difference(own, theirs, how)
            found[role][name] = Estimate(value=apart.value, n=apart.n, low=apart.low, high=apart.high)
    return found
