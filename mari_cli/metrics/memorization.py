"""The share of an answer that the model still predicts greedily under teacher forcing.

Shapes: T = tokens of one answer, at least one. Every score is a fraction: 1 is verbatim recall, 0 means that
nothing is recalled. Raises ValueError for an answer without tokens.
"""

from typing import TYPE_CHECKING

from mari_cli.metrics.aggregation import Aggregation, Column, mean_of, ratio
from mari_cli.metrics.likelihood import TOKENS
from mari_cli.metrics.metric import HEADLINE, Metric
from mari_cli.metrics.sets import NO_TOKENS, on_sets

if TYPE_CHECKING:  # a table of metrics needs no torch
    from collections.abc import Callable

    from torch import Tensor

    from mari_cli.metrics.answer import AnswerTokens


def _is_right(predicted_T: "Tensor", answer_T: "Tensor") -> "Tensor":
    if predicted_T.shape != answer_T.shape or predicted_T.dim() != 1:
        raise ValueError(f"expected two vectors of one length, got {predicted_T.shape} and {answer_T.shape}")
    if len(answer_T) == 0:
        raise ValueError("an answer without tokens has no score")
    return predicted_T == answer_T


def exact_match(predicted_T: "Tensor", answer_T: "Tensor") -> float:
    """1 if every token is predicted, each from the true tokens before it, else 0."""
    return float(_is_right(predicted_T, answer_T).all().item())


def exact_memorization(predicted_T: "Tensor", answer_T: "Tensor") -> float:
    """The share of the tokens that are predicted, each from the true tokens before it."""
    return _is_right(predicted_T, answer_T).double().mean().item()


def extraction_strength(predicted_T: "Tensor", answer_T: "Tensor") -> float:
    """1 - k/T, with k the length of the shortest prefix after which every token is predicted.

    Carlini et al. 2021. This is the longest correct suffix over the answer's length: 0 when the last token is
    wrong (k = T), and the exact match for an answer of one token. Implementations in which k is at most T - 1
    return 1/T instead of 0.
    """
    correct_T = _is_right(predicted_T, answer_T)
    return correct_T.long().flip(0).cumprod(0).sum().item() / len(correct_T)


def longest_run(predicted_T: "Tensor", answer_T: "Tensor") -> float:
    """Length of the longest run of neighbouring tokens that are all predicted, over the answer's length.

    It is at least `extraction_strength` and at most `exact_memorization`.
    """
    longest = run = 0
    for right in _is_right(predicted_T, answer_T).tolist():
        run = run + 1 if right else 0
        longest = max(longest, run)
    return longest / len(answer_T)


def _mean_of(of_item: "Callable[[Tensor, Tensor], float]", label: str = "") -> Aggregation:
    """The mean over items of a function of the predicted tokens and the answer's tokens."""

    def score(answer: "AnswerTokens") -> float:
        return of_item(answer.predicted_T, answer.labels_T)

    return mean_of(Column(of_item.__name__, label, score=score))


_TOKENS_RIGHT = Column(
    "tokens_right",
    score=lambda answer: int((answer.predicted_T == answer.labels_T).sum()),
    made_of=lambda item: item.values["exact_memorization"] * item.values["tokens"],
)
EXACT_MEMORIZATION = Metric(
    name="exact_memorization",
    label="exact memorization",
    description="mean over items of the share of positions where the argmax equals the label",
    source="Tirumala et al. 2022",
    degenerate=NO_TOKENS,
    aggregate=_mean_of(exact_memorization),
)
EXTRACTION_STRENGTH = Metric(
    name="extraction_strength",
    label="extraction strength",
    description="mean over items of 1 - k/T, k the shortest prefix after which every token is right",
    source="Carlini et al. 2021; corrected where the last token is wrong",
    degenerate="0 when the last token is wrong, 1 when all are right; " + NO_TOKENS,
    aggregate=_mean_of(extraction_strength, "extraction strength"),
)
METRICS = [
    *on_sets(
        Metric(
            name="token_accuracy",
            label="token accuracy",
            unit="fraction of tokens",
            description="share of all the set's answer tokens that are predicted right under teacher forcing",
            source="exact memorization pooled over tokens; the accuracy of Forgetting-MarI's stop rule",
            degenerate="long answers weigh more; a set without tokens is refused",
            aggregate=Aggregation(ratio, (_TOKENS_RIGHT, TOKENS)),
        ),
        forget={
            "role": "forgotten",
            "headline": 30,
            "says": "Forget data: words (tokens) predicted right",
            "short": "token accuracy",
            "distance_term": 2,
            "views": HEADLINE | {"runs", "followed"},
        },
        retain={
            "role": "kept",
            "headline": 65,
            "says": "Retain data: words (tokens) predicted right",
            "short": "token accuracy on the retain data",
            "distance_term": 8,
            "views": HEADLINE - {"terminal"} | {"followed"},
        },
    ),
    *on_sets(
        Metric(
            name="exact_match",
            label="exact match",
            unit="fraction of items",
            description="share of items whose greedy teacher-forced tokens all equal the answer",
            source="Carlini et al. 2021, under teacher forcing",
            degenerate=NO_TOKENS,
            aggregate=_mean_of(exact_match, "exact match"),
        ),
        forget={
            "role": "forgotten",
            "headline": 40,
            "says": "Forget data: records completed word for word",
            "short": "word-for-word recall",
            "distance_term": 3,
        },
        retain={
            "role": "kept",
            "headline": 70,
            "says": "Retain data: records completed word for word",
            "short": "word-for-word recall of the retain data",
            "distance_term": 7,
        },
    ),
    *on_sets(EXACT_MEMORIZATION),
    *on_sets(EXTRACTION_STRENGTH),
    *on_sets(
        Metric(
            name="longest_run",
            label="longest run",
            description="mean over items of the longest run of tokens that are all right, over the "
            "answer's length",
            source="this project; the longest common substring, under teacher forcing",
            degenerate="0 when no token is right; " + NO_TOKENS,
            aggregate=_mean_of(longest_run, "longest run"),
        ),
        forget={"headline": 42, "views": frozenset({"terminal", "glance"})},
    ),
]
