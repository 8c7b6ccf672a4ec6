"""Membership inference, over many items: how well does a score tell forget items from unseen ones?

Scores are higher where an item looks more trained on (`attacks`). To attack at a threshold is to call an item
trained on if its score is at least that: TPR is the share of forget items called so, FPR that of holdout
items. The best value of each figure is that of the model which never saw the forget data: a forget set that
looks less trained on than unseen data is just as visible.
"""

from collections.abc import Sequence
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from mari_cli.errors import UserError

Floats = NDArray[np.float64]
Scores = Sequence[float] | Floats


def _require_both(forget_scores: Scores, holdout_scores: Scores) -> None:
    if len(forget_scores) == 0 or len(holdout_scores) == 0:
        raise UserError(
            f"membership inference needs forget and holdout items, got {len(forget_scores)} and "
            f"{len(holdout_scores)}",
            "set `holdout` to data like the forget data that no model has seen",
        )


def _labelled(forget_scores: Scores, holdout_scores: Scores) -> tuple[Floats, Floats]:
    labels = np.concatenate([np.ones(len(forget_scores)), np.zeros(len(holdout_scores))])
    return labels, np.concatenate([np.asarray(forget_scores, float), np.asarray(holdout_scores, float)])


def auc(forget_scores: Scores, holdout_scores: Scores) -> float:
    """ROC AUC of telling forget (positive) from holdout items, ties counting half.

    1: every forget item looks more trained on than every unseen one; 0.5: no telling; 0: every forget item
    looks less so.
    """
    _require_both(forget_scores, holdout_scores)
    return float(roc_auc_score(*_labelled(forget_scores, holdout_scores)))


def tpr_at_fpr(forget_scores: Scores, holdout_scores: Scores, *, max_fpr: float = 0.01) -> Any:
    """The highest TPR of a threshold whose FPR is at most ``max_fpr``, in [0, 1] (Carlini et al. 2022,
    https://arxiv.org/abs/2112.03570). Nothing is interpolated: thresholds are scores.

    FPR moves in steps of 1 / (holdout items): with fewer than 1 / ``max_fpr`` of them (100 for 1 %) no false
    positive is allowed at all, and an honest look at 1 % takes many times that. Over the last dimension.
    """
    _require_both(forget_scores, holdout_scores)
    forget, holdout = np.asarray(forget_scores, float), np.asarray(holdout_scores, float)
    items = holdout.shape[-1]
    allowed = int(max_fpr * items + 1e-9)  # 0.29 * 100 is 28.999999999999996
    if allowed >= items:
        return np.ones(forget.shape[:-1])
    # a threshold has no more false positives than that if, and only if, it is above the next holdout score
    rank = items - 1 - allowed
    next_score = np.partition(holdout, rank, axis=-1)[..., rank, None]
    return (forget > next_score).mean(axis=-1)


def worst_threshold_advantage(forget_scores: Scores, holdout_scores: Scores) -> float:
    """max |TPR - FPR| over all thresholds, in [0, 1]: the two-sample Kolmogorov-Smirnov distance.

    What the best threshold adds, in either direction, to guessing: an attacker who sees forget and unseen
    items in equal parts is right (1 + advantage) / 2 of the time.
    """
    _require_both(forget_scores, holdout_scores)
    fpr, tpr, _ = roc_curve(*_labelled(forget_scores, holdout_scores))
    return float(np.abs(tpr - fpr).max())


def dkw_radius(forget_items: int, holdout_items: int, *, confidence: float = 0.95) -> float:
    """How far the advantage in the samples can be from that of the populations they were drawn from.

    Dvoretzky, Kiefer and Wolfowitz with Massart's constant: an empirical distribution of n items is within
    sqrt(ln(2/α')/2n) of its population's everywhere, except with probability α'. Each of the two gets half of
    α = 1 - ``confidence`` (union bound, α' = α/2), and the triangle inequality adds them:

        sqrt(ln(4/α) / 2n) + sqrt(ln(4/α) / 2m)

    For any distribution, and for the worst threshold even though it was chosen by looking. Massart 1990, The
    tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality.
    """
    halved = log(4 / (1 - confidence))
    return sqrt(halved / (2 * forget_items)) + sqrt(halved / (2 * holdout_items))


def privleak(auc: float, auc_retrain: float) -> float:
    """100 · ((1 - AUC) - (1 - AUC_retrain)) / (1 - AUC_retrain), in percent, at least -100 (Shi et al. 2024,
    MUSE, https://arxiv.org/abs/2407.06460).

    0: as visible as to the model trained without the forget data; negative: still looks trained on;
    positive: over-forgotten. MUSE counts the holdout set as the positive class, so its AUC is 1 - ours.
    Undefined at AUC_retrain = 1.
    """
    if auc_retrain == 1:
        raise ValueError("privleak is undefined where the retrained model's AUC is 1")
    return 100 * (auc_retrain - auc) / (1 - auc_retrain)
