"""The values of one answer's tokens that one forward pass gives. Metrics of answers read nothing else.

Shapes: N supervised positions of any items, T = tokens of one answer, V = vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.metrics.gap import true_token_gap
from mari_cli.metrics.membership import standardised

if TYPE_CHECKING:  # a table of metrics needs no torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AnswerTokens:
    """Values of one answer by token; log-probabilities in nats, given the true tokens before each token."""

    labels_T: "Tensor"
    log_p_T: "Tensor"
    """Log-probability of the true token."""
    standardised_T: "Tensor"
    predicted_T: "Tensor"
    """The most probable token."""
    gap_T: "Tensor"
    min_k: float
    """`metrics.min_k`."""


def log_p(logits_NV: "Tensor", labels_N: "Tensor") -> "Tensor":
    import torch

    return -torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")


def predicted(logits_NV: "Tensor", labels_N: "Tensor") -> "Tensor":
    return logits_NV.argmax(-1)


OF_LOGITS: "dict[str, Callable[[Tensor, Tensor], Tensor]]" = {
    "log_p_T": log_p,
    "standardised_T": standardised,
    "predicted_T": predicted,
    "gap_T": true_token_gap,
}
"""Fields of `AnswerTokens` as functions of logits [N, V] and labels [N], to a value for each position [N]."""
