"""Divergences of the predictions p from q, those of the model before step 1.

reading        gradient at the logits
KL(q ‖ p)      p - q
KL(p ‖ q)      p ∘ (γ - ⟨γ, p⟩),  γ = log p - log q
JS(p, q)       p ∘ (γ - ⟨γ, p⟩),  γ = (log p - log m) / 2,  m = (p + q) / 2
anchor         h - p Σ h,  h = clip(log p - log q, -1, 1) / V
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mari_cli.losses.fused import Logits, Predictions, Slope
from mari_cli.losses.readings.reading import OfLogits


@dataclass(frozen=True)
class KL(OfLogits):
    """KL(q ‖ p) of each position [N], in nats."""

    beside_reference = True

    def value(self, at: Logits) -> Tensor:
        """Computed from the difference of the logits, which keeps digits: at the reference the value is 0."""
        assert at.reference_cV is not None
        assert at.q_normaliser_c is not None
        difference_cV = (at.reference_cV - at.z_cV).mul_(_log_q(at).exp_())
        return difference_cV.sum(-1) - at.q_normaliser_c + at.normaliser_c

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        return Slope(factor_c=weight_c, towards_cV=_log_q(at).exp_())


@dataclass(frozen=True)
class ReverseKL(OfLogits):
    """KL(p ‖ q) of each position [N], in nats."""

    beside_reference = True

    def value(self, at: Logits) -> Tensor:
        assert at.reference_cV is not None
        assert at.q_normaliser_c is not None
        difference_cV = (at.z_cV - at.reference_cV).mul_((at.z_cV - at.normaliser_c.unsqueeze(-1)).exp_())
        return difference_cV.sum(-1) - at.normaliser_c + at.q_normaliser_c

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        added_cV = at.p_cV * _log_ratio(at) * weight_c.unsqueeze(-1)
        return Slope(factor_c=-(weight_c * value_c), added_cV=added_cV)


@dataclass(frozen=True)
class JensenShannon(OfLogits):
    """KL(p ‖ m) / 2 + KL(q ‖ m) / 2 of each position [N], m = (p + q) / 2, in nats: at most log 2."""

    beside_reference = True

    def value(self, at: Logits) -> Tensor:
        """From x = log q - log p: log p - log m = log 2 - log(1 + e^x), which is 0 at the reference."""
        log_p_cV, log_q_cV = at.z_cV - at.normaliser_c.unsqueeze(-1), _log_q(at)
        x_cV = log_q_cV - log_p_cV
        of_p_cV = log_p_cV.exp() * (math.log(2) + logsigmoid(-x_cV))
        return (of_p_cV + log_q_cV.exp() * (math.log(2) + logsigmoid(x_cV))).sum(-1) / 2

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        gamma_cV = (math.log(2) + logsigmoid(_log_ratio(at))) / 2
        added_cV = at.p_cV * gamma_cV * weight_c.unsqueeze(-1)
        return Slope(factor_c=-added_cV.sum(-1), added_cV=added_cV)


@dataclass(frozen=True)
class Anchor(OfLogits):
    """Huber(log p - log q) of each position [N], averaged over the vocabulary: the mean also depends on
    improbable tokens, on which KL hardly depends."""

    beside_reference = True

    def value(self, at: Logits) -> Tensor:
        apart_cV = at.z_cV - at.normaliser_c.unsqueeze(-1)
        apart_cV -= _log_q(at)
        near_cV = apart_cV.clamp(-1, 1)
        return (apart_cV - near_cV / 2).mul_(near_cV).mean(-1)

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        h_cV = _log_ratio(at).clamp(-1, 1) * (weight_c / at.p_cV.shape[-1]).unsqueeze(-1)
        return Slope(factor_c=-h_cV.sum(-1), added_cV=h_cV)


def _log_ratio(at: Predictions) -> Tensor:
    """log p - log q [c, V]. A p of 0 counts as the smallest positive number."""
    return at.p_cV.clamp_min(torch.finfo(at.p_cV.dtype).tiny).log() - _log_q(at)


def _log_q(at: Logits | Predictions) -> Tensor:
    """log q [c, V], in nats."""
    assert at.reference_cV is not None
    assert at.q_normaliser_c is not None
    return at.reference_cV - at.q_normaliser_c.unsqueeze(-1)
