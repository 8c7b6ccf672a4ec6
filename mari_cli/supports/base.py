"""Base: q is the sharpened prediction of the model before fine-tuning, tuned a little on the retain data
alone.

The tuning is a part of a retraining, and with too little tuning the predictions are too flat. So q is p^β,
normalised, with the β at which that model's loss on the holdout data equals that of the model before step 1.
(This method is not from the paper.) q depends on nothing that the model before step 1 has memorised.
"""

from torch import Tensor


def sharpened(log_p: Tensor, power: float) -> Tensor:
    """log q [c, V], of p to ``power``."""
    return (power * log_p).log_softmax(-1)
