"""What forgetting does to data that nobody has seen: it should stay where it was, and where gold has it.

Forgetting that drags the unseen data along is no forgetting: the forget loss arrives at gold's while the loss
detector, which compares the two, does not. So the loss of the holdout is followed against the target's and
gold's, and the AUC against gold's, each as a paired difference on the same items.
"""

from collections.abc import Mapping, Sequence

from mari_cli.metrics.difference import paired_difference
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import ItemValues, made
from mari_cli.metrics.statistics import How

DRIFTS: dict[str, tuple[str, str]] = {
    "holdout/nll_from_target": ("holdout/answer_nll", "target"),
    "holdout/nll_from_gold": ("holdout/answer_nll", "gold"),
    "privacy/loss_auc_from_gold": ("privacy/loss_auc", "gold"),
}
"""By full name: the metric, and the role of the model whose value is taken off."""


def drifts(models: Mapping[str, Sequence[ItemValues]], how: How) -> dict[str, dict[str, Estimate]]:
    """By role, every drift that its items and those of the other model tell."""
    found: dict[str, dict[str, Estimate]] = {role: {} for role in models}
    for name, (metric, other) in DRIFTS.items():
        theirs = made(metric, models.get(other, ()))
        for role, items in models.items():
            own = made(metric, items)
            if own is None or theirs is None:
                continue
            apart = paired_difference(
                own, theirs, resamples=how.resamples, confidence=how.confidence, seed=how.seed
            )
            found[role][name] = Estimate(value=apart.value, n=apart.n, low=apart.low, high=apart.high)
    return found
