"""Membership inference: every attack's score of every item. What the scores give away: `membership`."""

from collections.abc import Sequence

from mari_cli.data.tokenize import Item
from mari_cli.metrics import membership
from mari_cli.models.load import LanguageModel
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.scores import ItemScore
from mari_cli.suites.suite import Row


def attacked(
    examiner: Examiner,
    items: Sequence[Item],
    scores: Sequence[ItemScore],
    texts: Sequence[str],
    what: str,
    *,
    reference_nll: Sequence[float] | None = None,
) -> dict[str, list[float]]:
    """All attacks that cost nothing beyond ``scores``; by the gradient norm where the config asks for it, and
    against a reference where its mean token losses are given. ``texts``: of each item, the text that it is
    of, or a part of."""
    packed = [scored_text(examiner.lm, *pair) for pair in zip(items, texts, strict=True)]
    losses = [score.answer_nll for score in scores]
    found = {
        "loss": [membership.loss(nll) for nll in losses],
        "zlib": [membership.zlib_ratio(nll, text) for nll, text in zip(losses, packed, strict=True)],
        "min_k": [score.min_k for score in scores],
        "min_k_plus_plus": [score.min_k_plus_plus for score in scores],
    }
    if reference_nll is not None:
        found["reference"] = [
            membership.reference(nll, theirs) for nll, theirs in zip(losses, reference_nll, strict=True)
        ]
    if examiner.config.gradnorm:
        found["gradnorm"] = examiner.gradnorms(items, what)
    return found


def scored_text(lm: LanguageModel, item: Item, text: str) -> str:
    """What of ``text`` the item's targets are, as it is written, the white space at its edges too: all of it,
    or where the item is a block of it, or was cut, what the targets say.

    A tokenizer's words for its tokens are not always the text: some drop the first space.
    """
    targets = list(item.input_ids[item.supervised_from :])
    told = str(lm.tokenizer.decode(targets, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return text if told.strip() and told.strip() == text.strip() else told


def with_reference(rows: Sequence[Row], reference: Sequence[Row]) -> list[Row]:
    """Rows of a suite under a model, with the reference attack's score where others have been made and both
    they and ``reference``, the rows of the same items under another model, have a mean token loss."""
    theirs = {(row["set"], row["item"]): row["answer_nll"] for row in reference if "answer_nll" in row}
    return [
        row | {"reference": membership.reference(row["answer_nll"], theirs[place])}
        if "zlib" in row and "answer_nll" in row and (place := (row["set"], row["item"])) in theirs
        else row
        for row in rows
    ]
