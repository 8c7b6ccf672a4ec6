"""Base: q is the sharpened prediction of the model before fine-tuning, tuned a little on the retain data
alone.

The tuning is a part of a retraining, and with too little tuning the predictions are too flat. So q is p^β,
normalised, with the β at which that model's loss on the holdout data equals that of the model before step 1.
(This method is not from the paper.) q depends on nothing that the model before step 1 has memorised.
"""

import torch
from torch import Tensor

from mari_cli.supports.asked import Asked
from mari_cli.supports.sparse import Mistakes, item_means, mistakes


def sharpened(log_p: Tensor, power: float) -> Tensor:
    """log q [c, V], of p to ``power``."""
    return (power * log_p).log_softmax(-1)


@torch.no_grad()
def sharpened_mistakes(model: Asked, power: float, *, chunk: int) -> Mistakes:
    """The mistakes of the model whose predictions are raised to ``power``."""
    labels_N = model.remembered.labels_N
    nll, right = [], []
    for start in range(0, len(labels_N), chunk):
        here = slice(start, start + chunk)
        log_q_cV = sharpened(model.log_p(here), power)
        label_c1 = labels_N[here].to(log_q_cV.device).unsqueeze(1)
        nll.append(-log_q_cV.gather(1, label_c1).squeeze(1).cpu())
        right.append((log_q_cV.argmax(1) == label_c1.squeeze(1)).cpu())
    return mistakes(*(item_means(torch.cat(parts), model.remembered.rows) for parts in (nll, right)))
