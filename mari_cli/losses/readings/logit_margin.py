"""The largest logit minus the mean logit, whose gradient at the logits is onehot(largest) - 1/V."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.losses.fused import Logits, Predictions, Slope, is_label
from mari_cli.losses.readings.reading import OfLogits


@dataclass(frozen=True)
class LogitMargin(OfLogits):
    """max z - mean z of each position [N]; 0 for a uniform prediction."""

    def value(self, at: Logits) -> Tensor:
        return at.z_cV.amax(-1) - at.z_cV.mean(-1)

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        weight_c1, size = weight_c.unsqueeze(-1), at.p_cV.shape[-1]
        is_largest_cV = is_label(at.p_cV, at.p_cV.argmax(-1))
        return Slope(added_cV=torch.where(is_largest_cV, weight_c1 - weight_c1 / size, -weight_c1 / size))
