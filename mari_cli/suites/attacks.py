"""Membership inference: the score of every attack for every item, and the metrics of these scores.

For every attack a higher score means that an item looks more trained on (`metrics.membership`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mari_cli.metrics import membership as attack_scores
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
from mari_cli.suites.suite import Row, Summary

if TYPE_CHECKING:  # the numbers of a log need no torch
    from mari_cli.data.tokenize import Item
    from mari_cli.models.load import LanguageModel
    from mari_cli.suites.examiner import Examiner
    from mari_cli.suites.scores import ItemScore

Attacks = Mapping[str, Sequence[float]]
"""The scores of all items by attack."""


def membership(forget: Attacks, holdout: Attacks, how: How, *, group: str = "privacy") -> dict[str, Estimate]:
    """The metrics of one model, as `privacy/loss_auc`: three for each attack with scores on both sides."""
    metrics = {}
    for attack in [attack for attack in forget if attack in holdout]:
        sides = forget[attack], holdout[attack]
        metrics[f"{group}/{attack}_auc"] = auc_estimate(*sides, how)
        metrics[f"{group}/{attack}_tpr_at_1_fpr"] = tpr_at_fpr_estimate(*sides, how, max_fpr=0.01)
        metrics[f"{group}/{advantage_of(attack)}"] = advantage_estimate(*sides, confidence=how.confidence)
    return metrics


def attacks_in(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Scores of the attacks for which all ``rows``, one for each item, have a value."""
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
    gold; a note instead where privleak is undefined."""
    if auc(*gold) == 1:
        return Summary(
            {},
            [
                f"`{name}` is left out: to the gold model, which never saw the forget data, all of it looks "
                "more trained on than the holdout data (AUC 1), so the holdout is not like it"
            ],
        )
    return Summary({name: privleak_estimate(sets[0], sets[1], gold[0], gold[1], how)})


def score_attacks(
    examiner: "Examiner",
    items: "Sequence[Item]",
    scores: "Sequence[ItemScore]",
    texts: Sequence[str],
    what: str,
    *,
    reference_nll: Sequence[float] | None = None,
) -> dict[str, list[float]]:
    """Scores of all attacks that need nothing beyond ``scores``; also of the gradient norm if the config asks
    for this attack, and of the reference attack if ``reference_nll``, mean token losses, is given. ``texts``:
    for each item the text that contains it."""
    found = plain_attacks(examiner.lm, items, scores, texts)
    losses = [score.answer_nll for score in scores]
    if reference_nll is not None:
        found["reference"] = [
            attack_scores.reference(nll, theirs) for nll, theirs in zip(losses, reference_nll, strict=True)
        ]
    if examiner.config.gradnorm:
        found["gradnorm"] = examiner.gradnorms(items, what)
    return found


def plain_attacks(
    lm: "LanguageModel", items: "Sequence[Item]", scores: "Sequence[ItemScore]", texts: Sequence[str]
) -> dict[str, list[float]]:
    """Scores of the attacks that need the scores of the model alone; ``texts`` as in `score_attacks`."""
    packed = [scored_text(lm, *pair) for pair in zip(items, texts, strict=True)]
    losses = [score.answer_nll for score in scores]
    return {
        "loss": [attack_scores.loss(nll) for nll in losses],
        "zlib": [attack_scores.zlib_ratio(nll, text) for nll, text in zip(losses, packed, strict=True)],
        "min_k": [score.min_k for score in scores],
        "min_k_plus_plus": [score.min_k_plus_plus for score in scores],
    }


def scored_text(lm: "LanguageModel", item: "Item", text: str) -> str:
    """The part of ``text`` that the item's targets are, exactly as written: all of ``text``, or the decoded
    targets where the item is a block of the text or was cut.

    Decoded tokens may differ from the text: some tokenizers drop the first space.
    """
    targets = list(item.input_ids[item.supervised_from :])
    told = str(lm.tokenizer.decode(targets, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return text if told.strip() and told.strip() == text.strip() else told


def with_reference(rows: Sequence[Row], reference: Sequence[Row]) -> list[Row]:
    """``rows`` of a suite under a model, with the reference attack's score if other attacks have scores and
    both models have a mean token loss. ``reference``: rows of the same items under the other model."""
    theirs = {(row["set"], row["item"]): row["answer_nll"] for row in reference if "answer_nll" in row}
    return [
        row | {"reference": attack_scores.reference(row["answer_nll"], theirs[place])}
        if "zlib" in row and "answer_nll" in row and (place := (row["set"], row["item"])) in theirs
        else row
        for row in rows
    ]
