"""Membership inference: every attack's score of every item, and what the scores give away.

A score is higher where an item looks more trained on (`metrics.attacks`), whatever the attack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mari_cli.data.tokenize import Item
from mari_cli.metrics import attacks
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.privacy import auc
from mari_cli.metrics.statistics import (
    How,
    advantage_estimate,
    auc_estimate,
    privleak_estimate,
    tpr_at_fpr_estimate,
)
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.generate import decode
from mari_cli.suites.scores import ItemScore
from mari_cli.suites.suite import Summary

Attacks = Mapping[str, Sequence[float]]
"""By attack, its score of each item."""


def attacked(
    examiner: Examiner,
    items: Sequence[Item],
    scores: Sequence[ItemScore],
    what: str,
    *,
    reference_nll: Sequence[float] | None = None,
) -> dict[str, list[float]]:
    """All attacks that cost nothing beyond ``scores``; by the gradient norm where the config asks for it, and
    against a reference where its mean token losses are given."""
    texts = [decode(examiner.lm, item.input_ids[item.supervised_from :]) for item in items]
    losses = [score.answer_nll for score in scores]
    found = {
        "loss": [attacks.loss(nll) for nll in losses],
        "zlib": [attacks.zlib_ratio(nll, text) for nll, text in zip(losses, texts, strict=True)],
        "min_k": [score.min_k for score in scores],
        "min_k_plus_plus": [score.min_k_plus_plus for score in scores],
    }
    if reference_nll is not None:
        found["reference"] = [
            attacks.reference(nll, theirs) for nll, theirs in zip(losses, reference_nll, strict=True)
        ]
    if examiner.config.gradnorm:
        found["gradnorm"] = examiner.gradnorms(items, what)
    return found


def membership(forget: Attacks, holdout: Attacks, how: How, *, group: str = "privacy") -> dict[str, Estimate]:
    """The metrics of one model, as `privacy/loss_auc`."""
    metrics = {
        f"{group}/{attack}_auc": auc_estimate(forget[attack], holdout[attack], **asdict(how))
        for attack in forget
    }
    losses = forget["loss"], holdout["loss"]
    metrics[f"{group}/loss_tpr_at_1_fpr"] = tpr_at_fpr_estimate(*losses, max_fpr=0.01, **asdict(how))
    metrics[f"{group}/worst_threshold_advantage"] = advantage_estimate(*losses, confidence=how.confidence)
    return metrics


def attacks_in(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The attacks that all ``rows``, one for each item, have a score of."""
    found = {"loss": [attacks.loss(row["answer_nll"]) for row in rows]}
    for attack in ("zlib", "min_k", "min_k_plus_plus", "gradnorm"):
        if all(attack in row for row in rows):
            found[attack] = [row[attack] for row in rows]
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
