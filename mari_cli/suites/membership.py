"""Membership inference: what the scores of all attacks give away.

A score is higher where an item looks more trained on (`metrics.membership`), whatever the attack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import item_values
from mari_cli.metrics.membership import ATTACKS, advantage_of, auc
from mari_cli.metrics.statistics import (
    How,
    advantage_estimate,
    auc_estimate,
    privleak_estimate,
    tpr_at_fpr_estimate,
)
from mari_cli.suites.suite import Summary

Attacks = Mapping[str, Sequence[float]]
"""By attack, its score of each item."""


def membership(forget: Attacks, holdout: Attacks, how: How, *, group: str = "privacy") -> dict[str, Estimate]:
    """The metrics of one model, as `privacy/loss_auc`: three for each attack that both sides know."""
    metrics = {}
    for attack in [attack for attack in forget if attack in holdout]:
        sides = forget[attack], holdout[attack]
        metrics[f"{group}/{attack}_auc"] = auc_estimate(*sides, **asdict(how))
        metrics[f"{group}/{attack}_tpr_at_1_fpr"] = tpr_at_fpr_estimate(*sides, max_fpr=0.01, **asdict(how))
        metrics[f"{group}/{advantage_of(attack)}"] = advantage_estimate(*sides, confidence=how.confidence)
    return metrics


def attacks_in(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The attacks that all ``rows``, one for each item, have a score of."""
    items = [item_values({"model": "", **row}) for row in rows]
    found = {}
    for name, attack in ATTACKS.items():
        try:
            found[name] = [attack.column.of(item) for item in items]
        except KeyError:
            continue
    return found


def privleak(
    name: str, sets: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], how: How
) -> Summary:
    """Privleak under its full ``name``, from the scores of forget and holdout items under a model and under
    gold; a note instead where it is undefined."""
    if auc(*gold) == 1:
        return Summary(
            {},
            [
                f"`{name}` is left out: to the gold model, which never saw the forget data, all of it looks "
                "more trained on than the holdout data (AUC 1), so the holdout is not like it"
            ],
        )
    return Summary({name: privleak_estimate(*sets, *gold, **asdict(how))})
