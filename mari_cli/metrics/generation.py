"""Generated text compared with the text that the model should, or should no longer, generate."""

import re
import unicodedata
from dataclasses import replace
from functools import cache
from typing import Any

from mari_cli.metrics.aggregation import Aggregation, Column, mean, mean_of
from mari_cli.metrics.metric import HEADLINE, Metric
from mari_cli.metrics.sets import on_sets


@cache
def _rouge(kind: str, *, stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=stemmer)


def verbatim_rouge_l(generated: str, truth: str) -> float:
    """ROUGE-L recall with stemmer, as in TOFU: longest common subsequence over the truth's length, in words.

    In [0, 1], 0 for an empty generation. rouge-score reads only a-z and 0-9, so text in other scripts scores
    0 too.
    """
    return float(_rouge("rougeL", stemmer=True).score(truth, generated)["rougeL"].recall)


def verbatim_rouge_1(generated: str, truth: str) -> float:
    """ROUGE-1 recall with stemmer, as in TOFU: the share of the truth's words in the generation, in any
    order. It is never below ROUGE-L's."""
    return float(_rouge("rouge1", stemmer=True).score(truth, generated)["rouge1"].recall)


def rouge_l_f1(generated: str, truth: str) -> float:
    """ROUGE-L F1 without stemmer, as in MUSE: the harmonic mean of the longest common subsequence over the
    truth's length and over the generation's, in words. In [0, 1]; words as in `verbatim_rouge_l`."""
    return float(_rouge("rougeL", stemmer=False).score(truth, generated)["rougeL"].fmeasure)


def rouge_l_recall(generated: str, truth: str) -> float:
    """`verbatim_rouge_l` without stemmer."""
    return float(_rouge("rougeL", stemmer=False).score(truth, generated)["rougeL"].recall)


def _words(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def recalled(generated: str, value: str) -> bool:
    """Whether ``generated`` has ``value`` as whole words, in any case. Raises ValueError if it is empty."""
    wanted = _words(value)
    if not wanted:
        raise ValueError("an empty value is in every text")
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _words(generated)) is not None


NO_WORDS = "0 for an empty generation and for text without a-z and 0-9, which rouge-score skips"

RECALLED = Column("recalled", "told", leads=True)


def _told(fact: str) -> Aggregation:
    return Aggregation(mean, (RECALLED,), sets=("forget",), fact=fact)


_FACT = Metric(
    name="facts/unique_recall",
    label="unique-fact recall",
    unit="fraction of items",
    direction="gold",
    description="generated answers that name it, of forget questions after a fact stated nowhere else",
    source="this project's fictional corpus",
    degenerate="absent where the corpus does not know its facts",
    aggregate=_told("unique"),
    role="forgotten",
    distance_term=6,
    headline=50,
    views=HEADLINE | {"runs"},
    says="Facts stated only there, still told when asked",
    short="fact recall",
)
METRICS = on_sets(
    Metric(
        name="verbatim_rouge_l",
        label="ROUGE-L recall",
        description="mean over items of the greedily generated answer's ROUGE-L recall, with stemmer",
        source="TOFU, Maini et al. 2024; rouge-score",
        degenerate=NO_WORDS,
        aggregate=mean_of(Column("verbatim_rouge_l", "ROUGE-L")),
    ),
    forget={"distance_term": 4, "headline": 45, "views": frozenset({"glance"})},
    retain={"distance_term": 9},
)
FACTS = [
    _FACT,
    replace(
        _FACT,
        name="facts/shared_recall",
        label="shared-fact recall",
        direction="up",
        description="generated answers that name it, of forget questions after a fact that retained "
        "documents state too",
        aggregate=_told("shared"),
        role="kept",
        distance_term=10,
        headline=60,
        says="Facts that retained documents state too, told when asked about the forgotten",
        short="recall of shared facts",
    ),
]
