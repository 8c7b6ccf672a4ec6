"""The log-odds of the label, and a divergence that is a function of them.

Functions of p(label) and 1 - p(label) are smooth in the log-odds x: p = σ(x), 1 - p = σ(-x). For a token of
which the model is certain, 1 - p computed from log p has no correct digits; computed from x it has all of
them. Below, q is the prediction among the other tokens.

reading           gradient at the logits
log-odds x        onehot(label) - q
uniform target    p (1 - p) (x + log(V - 1)) (onehot(label) - q)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mari_cli.losses.fused import Logits, Predictions, Slope, at_label, is_label
from mari_cli.losses.readings.reading import OfLogits


@dataclass(frozen=True)
class LogOdds(OfLogits):
    """log p(label) - log(1 - p(label)) of each position [N], in nats."""

    def value(self, at: Logits) -> Tensor:
        return _log_odds(at)

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        others_cV, all_c = _others(at)
        return Slope(towards_cV=others_cV / all_c.unsqueeze(-1))

    def at_tokens(self, labels_c: Tensor, weight_c: Tensor) -> tuple[Tensor, Tensor]:
        return labels_c.unsqueeze(-1), weight_c.unsqueeze(-1)


@dataclass(frozen=True)
class UniformTarget(OfLogits):
    """KL(p ‖ t) of each position [N], in nats: t has 1/V at the label and the proportions of p elsewhere."""

    def value(self, at: Logits) -> Tensor:
        x_c, most = _log_odds(at), at.z_cV.shape[-1]
        by_label_c = x_c.sigmoid() * (x_c + math.log(most - 1))
        return by_label_c + logsigmoid(-x_c) + math.log(most / (most - 1))

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        others_cV, all_c = _others(at)
        label_c = at_label(at.p_cV, at.labels_c)
        smallest = torch.finfo(label_c.dtype).tiny
        x_c = label_c.clamp_min(smallest).log() - all_c.log()
        pull_c = weight_c * label_c * (x_c + math.log(others_cV.shape[-1] - 1))  # 1 - p follows below
        is_label_cV = is_label(at.p_cV, at.labels_c)
        added_cV = torch.where(is_label_cV, (pull_c * all_c).unsqueeze(-1), -pull_c.unsqueeze(-1) * others_cV)
        return Slope(added_cV=added_cV)


def _log_odds(at: Logits) -> Tensor:
    others_cV = at.z_cV.masked_fill(is_label(at.z_cV, at.labels_c), -torch.inf)
    return at_label(at.z_cV, at.labels_c) - others_cV.logsumexp(-1)


def _others(at: Predictions) -> tuple[Tensor, Tensor]:
    """The probabilities with 0 at the label [c, V], and their sum 1 - p(label) [c]."""
    others_cV = at.p_cV.masked_fill(is_label(at.p_cV, at.labels_c), 0)
    return others_cV, others_cV.sum(-1).clamp_min(torch.finfo(others_cV.dtype).tiny)
