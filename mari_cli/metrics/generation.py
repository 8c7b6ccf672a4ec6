"""What the model says in its own words, against what it should (or should no longer) say."""

import re
import unicodedata
from functools import cache
from typing import Any


@cache
def _rouge(kind: str, *, stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=stemmer)


def verbatim_rouge_l(generated: str, truth: str) -> float:
    """ROUGE-L recall with stemmer, as TOFU: longest common subsequence over the truth's length, in words.

    In [0, 1], 0 for an empty generation. rouge-score reads a-z and 0-9 only, so text in another script scores
    0 too.
    """
    return float(_rouge("rougeL", stemmer=True).score(truth, generated)["rougeL"].recall)


def verbatim_rouge_1(generated: str, truth: str) -> float:
    """ROUGE-1 recall with stemmer, as TOFU: the share of the truth's words that are said, in any order. Never
    below ROUGE-L's."""
    return float(_rouge("rouge1", stemmer=True).score(truth, generated)["rouge1"].recall)


def rouge_l_f1(generated: str, truth: str) -> float:
    """ROUGE-L F1 without stemmer, as MUSE: the harmonic mean of the longest common subsequence over the
    truth's length and over the generation's, in words. In [0, 1]; words as in `verbatim_rouge_l`."""
    return float(_rouge("rougeL", stemmer=False).score(truth, generated)["rougeL"].fmeasure)


def rouge_l_recall(generated: str, truth: str) -> float:
    """`verbatim_rouge_l` without stemmer."""
    return float(_rouge("rougeL", stemmer=False).score(truth, generated)["rougeL"].recall)


def _words(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def recalled(generated: str, value: str) -> bool:
    """Whether the value stands in the text as whole words, whatever the case and the white space."""
    wanted = _words(value)
    if not wanted:
        raise ValueError("an empty value is in every text")
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _words(generated)) is not None
