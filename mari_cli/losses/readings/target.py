"""Cross-entropy of the predictions p to a target distribution q; its gradient at the logits is p - q.

The target is computed chunk by chunk from the logits of the reference, the model before step 1.
`SupportInformation` reads targets that another model gives before step 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.losses.fused import Logits, Predictions, Slope, is_label
from mari_cli.losses.readings.reading import OfLogits


@dataclass(frozen=True)
class TargetCrossEntropy(OfLogits):
    """-Σ q log p of each position [N], in nats. q = softmax(the reference's logits, the label's lowered by
    ``lowered``)."""

    lowered: float = 0.0

    beside_reference = True

    def value(self, at: Logits) -> Tensor:
        return at.normaliser_c - (self._target(at.reference_cV, at.labels_c) * at.z_cV).sum(-1)

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        return Slope(factor_c=weight_c, towards_cV=self._target(at.reference_cV, at.labels_c))

    def _target(self, reference_cV: Tensor | None, labels_c: Tensor) -> Tensor:
        assert reference_cV is not None
        lowered_cV = reference_cV - self.lowered
        return torch.where(is_label(reference_cV, labels_c), lowered_cV, reference_cV).softmax(-1)
