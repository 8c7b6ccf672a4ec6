"""The divergence of each forget position's prediction from the distribution q that the retain data supports.

q is stored as K tokens and one tail (`Supported`), so the gradient needs p at the K tokens alone. With D(q,
p) in nats and the score s = p ∘ ∂D/∂p (losses/divergences/), the gradient of D is s - p Σ s, and that of
Huber(log p(y)/q(y)) at the observed token y is clip(log p(y)/q(y), -1, 1) (onehot(y) - p).

The gradients of the divergences vanish where p and q are both small, but a forgotten token has to end there,
so they stop too early with q of a model that never saw the data. The Huber loss's gradient does not vanish.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.losses import marginal
from mari_cli.losses.divergences import divergence_of
from mari_cli.losses.mari import Divergence
from mari_cli.losses.readings.reading import Chunk, OfPredictions, Push
from mari_cli.losses.step import Rows, Step


@dataclass(frozen=True)
class SupportInformation(OfPredictions):
    """[1 or 2, M]: D(q, p) of each position; with ``pointwise`` also the Huber loss of the observed token."""

    divergence: Divergence
    prior: float | None
    """P(Z=1); None: from the step's counts."""
    share: float | None
    """The forget side's weight in the joint distribution; None: its share of the step's positions."""
    floor: float
    stored_tokens: int
    pointwise: bool

    def shape(self, rows: Mapping[str, Rows], step: Step) -> tuple[int, ...] | None:
        return (1 + self.pointwise, len(rows[self.role].h_ND)) if self.role in rows else None

    def push(self, part: Chunk, rows: Rows, step: Step, weight: Tensor) -> Push:
        """With the score s of the K tokens and of the rest as one outcome, the gradient is p (s_rest/p_rest -
        Σ s) at all tokens, plus s - p s_rest/p_rest at the K tokens."""
        supported = rows.supported
        assert supported is not None
        p_cV, ids_cK = part.p_cV, supported.ids_MK[part.index].long()
        p_cK = p_cV.gather(-1, ids_cK)
        p_cV.scatter_(-1, ids_cK, 0.0)
        rest_c1 = p_cV.sum(-1, keepdim=True)  # 1 - Σ p_cK would lose the digits of a small rest
        p_cV.scatter_(-1, ids_cK, p_cK)
        tiny = torch.finfo(p_cK.dtype).tiny
        rest_c1 = rest_c1.clamp_min(tiny)
        label_c1 = part.log_p_c.to(p_cK).unsqueeze(-1)  # log p is finite even where p is 0
        log_p_cL = torch.cat([label_c1, p_cK[:, 1:].clamp_min(tiny).log(), rest_c1.log()], -1)
        q_cK = supported.probability_MK[part.index]
        if self.divergence is not Divergence.jensen_shannon:  # only Jensen-Shannon allows a q of 0
            q_cK = q_cK.clamp_min(self.floor)
        log_q_cL = marginal.with_rest(q_cK.to(p_cK)).clamp_min(tiny).log()
        retain, forget = step.counts["retain"], step.counts["forget"]
        divergence = divergence_of(
            self.divergence,
            prior=marginal.prior_of(self.prior, retain=retain, forget=forget),
            share=forget / (forget + retain) if self.share is None else self.share,
        )
        value_c, score_cL = divergence(log_q_cL, log_p_cL)
        values = [value_c]
        score_cL = score_cL * weight[0].unsqueeze(-1)
        if self.pointwise:
            value_c, slope_c = pointwise(log_q_cL[:, 0], log_p_cL[:, 0])
            values.append(value_c)
            score_cL[:, 0] += slope_c * weight[1]
        each_c1 = score_cL[:, -1:] / rest_c1
        return Push(
            torch.stack(values),
            (each_c1 - score_cL.sum(-1, keepdim=True)).squeeze(-1),
            ids_cK,
            score_cL[:, :-1] - p_cK * each_c1,
        )


def pointwise(log_q_c: Tensor, log_p_c: Tensor) -> tuple[Tensor, Tensor]:
    """Huber(log p(y) - log q(y)) [c], and its derivative at log p(y) [c], which is in [-1, 1]. Huber(x) is
    x²/2 where |x| < 1, else |x| - 1/2 (P. Huber 1964), x in nats."""
    x_c = log_p_c - log_q_c
    slope_c = x_c.clamp(-1, 1)
    return slope_c * (x_c - slope_c / 2), slope_c
