"""The true-token gap: the true token's logit minus the logits of the most probable other tokens.

A model gives a memorised token a logit far above every alternative; as the model forgets, the gap closes. The
gap needs no other model and no other data, so it can decide when to stop (MASC,
https://arxiv.org/abs/2606.02920, shrinks this gap and stops where it is small).

Shapes: N = positions, V = vocabulary, K = alternatives.
"""

from math import inf
from typing import TYPE_CHECKING

from mari_cli.metrics.aggregation import Column, mean_of
from mari_cli.metrics.metric import Metric
from mari_cli.metrics.sets import NO_TOKENS, on_sets

if TYPE_CHECKING:  # a table of metrics needs no torch
    from torch import Tensor

ALTERNATIVES = 5
"""The number of most probable other tokens that the true token is compared with."""


def true_token_gap(logits_NV: "Tensor", labels_N: "Tensor", *, alternatives: int = ALTERNATIVES) -> "Tensor":
    """logit(true token) - mean logit of the ``alternatives`` most probable other tokens, at each position
    [N], in nats: the logarithm of their odds.

    Above 0 the true token leads. A smaller vocabulary counts whole. Raises ValueError for one token.
    """
    if logits_NV.shape[-1] < 2:
        raise ValueError("a vocabulary of one token has no alternatives")
    k = min(alternatives, logits_NV.shape[-1] - 1)
    top_NK, tokens_NK = logits_NV.topk(k + 1)
    # of k + 1 tokens the true one is dropped if it is among them, else the least probable one
    others_NK = top_NK.masked_fill(tokens_NK == labels_N.unsqueeze(-1), -inf).topk(k).values
    true_N = logits_NV.gather(-1, labels_N.unsqueeze(-1)).squeeze(-1)
    return true_N.double() - others_NK.double().mean(-1)


METRICS = on_sets(
    Metric(
        name="true_token_gap",
        label="true-token gap",
        unit="nats",
        low=-inf,
        high=inf,
        description="mean over items of the mean over tokens of the true token's logit less the mean "
        "logit of the 5 likeliest other tokens",
        source="this project, after MASC (2606.02920)",
        degenerate="a small vocabulary is taken whole; " + NO_TOKENS,
        aggregate=mean_of(Column("true_token_gap", score=lambda answer: answer.gap_T.mean().item())),
    )
)
