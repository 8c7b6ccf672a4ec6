"""log p(label), whose gradient at the logits is onehot(label) - p."""

from dataclasses import dataclass

from torch import Tensor

from mari_cli.losses.fused import Logits, Predictions, Slope, at_label
from mari_cli.losses.readings.reading import OfLogits


@dataclass(frozen=True)
class LogP(OfLogits):
    """log p(label) of each position [N], in nats."""

    def value(self, at: Logits) -> Tensor:
        return at_label(at.z_cV, at.labels_c) - at.normaliser_c

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        return Slope(factor_c=-weight_c)

    def at_tokens(self, labels_c: Tensor, weight_c: Tensor) -> tuple[Tensor, Tensor]:
        return labels_c.unsqueeze(-1), weight_c.unsqueeze(-1)
