"""Does the true token still stand out? Its logit against those of the likeliest other tokens.

What a model has learned by heart it predicts with a logit far above every alternative; as it forgets, the gap
closes. It needs no other model and no other data, so it can say when to stop (MASC, https://arxiv.org/abs/2606.02920,
shrinks this gap and stops where it is small).

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
"""How many of the likeliest other tokens the true one is compared with."""


def true_token_gap(logits_NV: "Tensor", labels_N: "Tensor", *, alternatives: int = ALTERNATIVES) -> "Tensor":
    """logit(true token) - mean logit of the ``alternatives`` likeliest other tokens, at each position [N], in
    nats: the logarithm of the odds between them.

    Above 0 the true token stands out; of a vocabulary with fewer other tokens all are taken.
    """
    if logits_NV.shape[-1] < 2:
        raise ValueError("a vocabulary of one token has no alternatives")
    k = min(alternatives, logits_NV.shape[-1] - 1)
    top_NK, tokens_NK = logits_NV.topk(k + 1)
    # of k + 1 the true token goes if it is among them, else the least likely one
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
