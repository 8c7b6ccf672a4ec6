"""Membership inference: does the model treat forget items as it treats items that it never saw?

A score is higher where an item looks more like training data. The loss attack (Yeom et al. 2018) scores an
answer by its negated mean token loss; min-k (Shi et al. 2024) by the mean log-probability of its least likely
tokens.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mari_cli.errors import UserError

Scores = Sequence[float] | NDArray[np.float64]


def min_k(log_probability_T: Tensor, k: float = 0.4) -> float:
    """Mean of the lowest share ``k`` of the token log-probabilities, in nats, <= 0.

    Higher looks more trained on. The share is rounded down to whole tokens, but never below one.
    """
    if log_probability_T.dim() != 1 or len(log_probability_T) == 0:
        raise ValueError(f"expected log-probabilities of at least one token, got {log_probability_T.shape}")
    lowest = max(1, int(k * len(log_probability_T) + 1e-9))  # 0.29 * 100 is 28.999999999999996
    return log_probability_T.double().topk(lowest, largest=False).values.mean().item()


def auc(forget_scores: Scores, holdout_scores: Scores) -> float:
    """ROC AUC of telling forget (positive) from holdout items, ties counting half.

    1: every forget item looks more trained on than every unseen one; 0.5: no telling; 0: every forget item
    looks less so, which is just as visible. The best value is that of the model which never saw the forget
    data.
    """
    if len(forget_scores) == 0 or len(holdout_scores) == 0:
        raise UserError(
            f"membership inference needs forget and holdout items, got {len(forget_scores)} and "
            f"{len(holdout_scores)}",
            "set `holdout` to data like the forget data that no model has seen",
        )
    labels = np.concatenate([np.ones(len(forget_scores)), np.zeros(len(holdout_scores))])
    scores = np.concatenate([np.asarray(forget_scores, float), np.asarray(holdout_scores, float)])
    return float(roc_auc_score(labels, scores))
