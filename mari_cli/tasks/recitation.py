"""Whether q, which the model is to say, still recites what is to be forgotten."""

import math
from collections.abc import Mapping, Sequence
from statistics import pvariance

from mari_cli.data.records import Fact
from mari_cli.models.context import Targets
from mari_cli.suites.scores import ItemScore
from mari_cli.suites.standard import Corpus
from mari_cli.supports.sparse import choices

ERRORS = 2.0
"""Standard errors by which q recites more than the model before recites of the holdout, for a warning."""


def describe_recitation(
    found: Targets, corpora: Mapping[str, Corpus], holdout: Sequence[ItemScore]
) -> list[str]:
    """How much of the forget data q itself recites, and a warning where that is more than the model before
    recites of the holdout: of unique facts, where a corpus knows them; else of all answers, and how often its
    first choice is the true token, for a long answer or a block of text is seldom recited whole."""
    right, exact = choices(found)
    forget = _unique(corpora, "forget")
    unseen = _unique(corpora, "holdout") if holdout else []
    if forget and (unseen or not holdout):
        theirs = [holdout[i].exact_match for i in unseen]
        return [_describe_means("recites {} of the unique facts", exact[forget].tolist(), theirs)]
    return [
        _describe_means("recites {} of the answers", exact.tolist(), [its.exact_match for its in holdout]),
        _describe_means(
            "finds {} of the tokens", right.tolist(), [its.tokens_right / its.tokens for its in holdout]
        ),
    ]


def _describe_means(does: str, own: Sequence[float], theirs: Sequence[float]) -> str:
    """The means of both, and a warning where q's is above the other by more than chance has it."""
    mean = sum(own) / len(own)
    note = f"support: q {does.format(f'{mean:.3f}')} to be forgotten"
    if not theirs:
        return f"{note}; there is no holdout to compare that with"
    unseen = sum(theirs) / len(theirs)
    note += f"; the model before {does.format(f'{unseen:.3f}')} of the holdout"
    if mean > unseen + ERRORS * math.sqrt(pvariance([*own, *theirs]) * (1 / len(own) + 1 / len(theirs))):
        return f"warning: {note}: what is aimed at still holds what is to be forgotten"
    return note


def _unique(corpora: Mapping[str, Corpus], role: str) -> list[int]:
    if role not in corpora:
        return []
    corpus = corpora[role]
    return [i for i in range(len(corpus.items)) if corpus.record_of(i).fact is Fact.unique]
