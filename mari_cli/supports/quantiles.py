"""Matching of quantiles: the losses of q's answers get the distribution of losses on unseen answers.

q may give some answers far too much probability and others far too little, and still be right on average. A
model that never saw the forget data has losses on its answers like the holdout's, and they vary as much. So
of the answers that q gets wrong, the one with the k-th smallest loss is moved to the k-th quantile of the
losses of the model before step 1 on the holdout answers that it gets wrong. (Not from the paper.)

Where the forget answers are harder or easier (supports/difficulty.py), both are compared without that.

Only the label's probability is moved, at the positions where q does not choose the label:

    q'(y) ∝ q(y) · exp(s),   one s for an answer; the other tokens share the rest as they did before

The label stays second to the token that q chooses, so the same tokens are right before and after. Shapes: M
forget positions, m some of them, S answers, W those that q gets wrong, K stored tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.models.reference import ItemRows
from mari_cli.supports.sparse import item_means

DEFINITION = 1
"""Part of every cache key: raise it when a change here changes what is computed."""
MOST = 16.0
"""The most by which a label is moved, in nats."""
HALVINGS = 60
BELOW = 1 - 1e-6
"""The most probability of a label that is moved up, relative to that of the token that q chooses."""


@dataclass(frozen=True)
class Moved:
    """The amount by which each label is moved."""

    shift_M: Tensor
    """In nats, float64; 0 where a label is not moved."""
    wanted_W: Tensor
    """The wanted losses, in nats, of the answers that q gets wrong."""
    reached_W: Tensor


def highest(log_label_m: Tensor, log_best_m: Tensor) -> Tensor:
    """log q'(y) [m] at which the label is just second to the best other token, while the others shrink as the
    label grows: x < b(1 − x)/(1 − q(y)), so x = r/(1 + r) with r = b/(1 − q(y))."""
    ratio_m = (log_best_m - (-log_label_m.exp()).log1p()).exp()
    return (BELOW * ratio_m / (1 + ratio_m)).log()


def moved_label(log_label_m: Tensor, log_best_m: Tensor, shift_m: Tensor, *, floor: float) -> Tensor:
    """log q'(y) [m] of log q(y) and the log-probability of the most probable other token. It is at least
    ``floor``, and unchanged where the label is the most probable token."""
    top_m = torch.minimum(log_label_m + shift_m, highest(log_label_m, log_best_m))
    moved_m = torch.where(shift_m > 0, torch.maximum(top_m, log_label_m), log_label_m + shift_m)
    moved_m = moved_m.clamp_min(torch.tensor(floor, dtype=moved_m.dtype).log().item())
    leads_m = log_label_m > log_best_m
    return torch.where(leads_m | (shift_m == 0), log_label_m, moved_m)


def match_quantiles(
    log_label_M: Tensor,
    log_best_M: Tensor,
    rows: ItemRows,
    holdout_W: Sequence[float],
    *,
    floor: float,
    harder_S: Tensor | None = None,
) -> Moved:
    """The shifts at which the wrong answers' losses, less ``harder_S``, are those quantiles of ``holdout_W``,
    losses in nats.

    ``log_label_M`` and ``log_best_M``: log q of the label and of the most probable other token, float64.
    """
    counts_S = torch.tensor(list(rows.counts.values()))

    def losses(shift_S: Tensor) -> Tensor:
        shift_M = shift_S.repeat_interleave(counts_S)
        return -item_means(moved_label(log_label_M, log_best_M, shift_M, floor=floor), rows)

    none_S = torch.zeros(len(counts_S), dtype=torch.float64)
    wrong_S = item_means(log_label_M > log_best_M, rows) < 1
    wrong_W = wrong_S.nonzero().squeeze(1)
    if not len(wrong_W) or not holdout_W:
        return Moved(none_S.repeat_interleave(counts_S), none_S[:0], none_S[:0])
    place_W = torch.empty(len(wrong_W), dtype=torch.float64)
    harder_W = (none_S if harder_S is None else harder_S)[wrong_W]
    before_W = losses(none_S)[wrong_W] - harder_W
    place_W[before_W.argsort(stable=True)] = torch.arange(len(wrong_W)).double()
    known = torch.tensor(sorted(holdout_W), dtype=torch.float64)
    wanted_W = torch.quantile(known, (place_W + 0.5) / len(wrong_W)) + harder_W
    low_S, high_S = none_S - MOST, none_S + MOST
    wanted_S = losses(none_S)
    wanted_S[wrong_W] = wanted_W
    for _ in range(HALVINGS):
        middle_S = (low_S + high_S) / 2
        above_S = losses(middle_S) > wanted_S  # the answer is still too improbable: move up
        low_S, high_S = torch.where(above_S, middle_S, low_S), torch.where(above_S, high_S, middle_S)
    shift_S = torch.where(wrong_S, (low_S + high_S) / 2, none_S)
    return Moved(shift_S.repeat_interleave(counts_S), wanted_W, losses(shift_S)[wrong_W])


def move(q_mK: Tensor, shift_m: Tensor, *, floor: float) -> Tensor:
    """The probabilities [m, K], label first, after the label is moved. The other tokens share the rest, the
    tail, which is 1 minus their sum, among them."""
    label_m, best_m = q_mK[:, 0], q_mK[:, 1:].amax(1)
    moved_m = moved_label(label_m.log(), best_m.log(), shift_m, floor=floor).exp()
    left_m = (1 - moved_m) / (1 - label_m).clamp_min(floor)
    others_mK = q_mK[:, 1:] * torch.where(moved_m == label_m, torch.ones_like(left_m), left_m).unsqueeze(1)
    return torch.cat([moved_m.unsqueeze(1), others_mK], 1)
