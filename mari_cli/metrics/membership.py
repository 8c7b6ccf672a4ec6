"""Membership inference: how well do scores of single items tell forget items from unseen ones?

The score of every attack is higher where an item looks more trained on. To attack at a threshold is to call
an item trained on if its score is at least that: TPR is the share of forget items called so, FPR that of
holdout items. The best value of each figure is that of the model which never saw the forget data: a forget
set that looks less trained on than unseen data is just as visible.

Shapes: T = tokens of one answer, N = supervised positions, V = vocabulary. Log-probabilities are those of the
true token given the true tokens before it, in nats.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot, inf, log, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from mari_cli.errors import UserError
from mari_cli.metrics.aggregation import Aggregation, ByIntervals, Column
from mari_cli.metrics.aggregation import auc as auc_of_draws
from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.metric import Metric

if TYPE_CHECKING:  # a table of metrics needs no torch
    from torch import Tensor

Scores = Sequence[float] | Floats

# -- scores of one item -------------------------------------------------------------------------------------

STRIP = 64
"""Rows whose probabilities exist at one time beside their logits."""
SMALLEST_DEVIATION = 1e-3
"""Of a log-probability, in nats: below it the digits of float32 logits are noise."""
NEVER = -100.0
"""A logit this far below the largest is as good as one of -inf, which cannot be averaged."""
ZLIB_LEVEL = 6


def _lowest(values_T: "Tensor", k: float) -> float:
    """Mean of the lowest share ``k``, rounded down to whole tokens, but never below one."""
    if values_T.dim() != 1 or len(values_T) == 0:
        raise ValueError(f"expected the values of at least one token as a vector, got {values_T.shape}")
    lowest = max(1, int(k * len(values_T) + 1e-9))  # 0.29 * 100 is 28.999999999999996
    return values_T.double().topk(lowest, largest=False).values.mean().item()


def loss(answer_nll: float) -> float:
    """Negated mean token loss, in nats, <= 0 (Yeom, Giacomelli, Fredrikson, Jha 2018,
    https://arxiv.org/abs/1709.01604)."""
    return -answer_nll


def zlib_ratio(answer_nll: float, text: str) -> float:
    """Negated mean token loss over the bytes that zlib packs the answer into, <= 0 (Carlini et al. 2021,
    https://arxiv.org/abs/2012.07805): text that is easy for everyone is easy for zlib too.

    Bytes of UTF-8, level 6, the header of two and the checksum of four included, so never 0.
    """
    return -answer_nll / len(zlib.compress(text.encode(), ZLIB_LEVEL))


def reference(answer_nll: float, reference_nll: float) -> float:
    """How much lower the mean token loss is than another model's, in nats (the calibration of Carlini et al.
    2021, as a difference: Watson, Guo, Cormode, Sablayrolles 2022, https://arxiv.org/abs/2111.08440).

    The reference should know such text but not these items; both models must read the same tokens.
    """
    return reference_nll - answer_nll


def min_k(log_probability_T: "Tensor", k: float = 0.4) -> float:
    """Mean of the lowest share ``k`` of the log-probabilities, in nats, <= 0 (Shi et al. 2024, Min-K% Prob,
    https://arxiv.org/abs/2310.16789). The share is rounded down to whole tokens, but never below one."""
    return _lowest(log_probability_T, k)


def min_k_plus_plus(standardised_T: "Tensor", k: float = 0.4) -> float:
    """Mean of the lowest share ``k`` of the `standardised` log-probabilities (Zhang et al. 2024, Min-K%++,
    https://arxiv.org/abs/2404.02936). Any sign, without unit; rounded as `min_k`."""
    return _lowest(standardised_T, k)


def standardised(logits_NV: "Tensor", labels_N: "Tensor") -> "Tensor":
    """(log p(label) - μ) / σ at each position [N], μ and σ those of log p of a token that the model draws.

    σ is at least `SMALLEST_DEVIATION`. At a distribution without spread (one certain token, or a uniform
    one) its own tokens thus have 0, and any other a very low value that is finite.
    """
    import torch

    parts = zip(logits_NV.split(STRIP), labels_N.split(STRIP), strict=True)
    return torch.cat([_standardised(logits_sV, labels_s) for logits_sV, labels_s in parts])


def _standardised(logits_sV: "Tensor", labels_s: "Tensor") -> "Tensor":
    import torch

    # log p and the logits differ by a constant of the position; the largest one keeps the digits of the rest
    label_s = logits_sV.gather(-1, labels_s.unsqueeze(-1)).squeeze(-1)
    largest_s1 = logits_sV.amax(-1, keepdim=True)
    below_sV = (logits_sV - largest_s1).clamp_(min=NEVER)
    p_sV = below_sV.exp()
    total_s = p_sV.sum(-1)
    mean_s: Tensor = torch.linalg.vecdot(p_sV, below_sV) / total_s
    square_s = torch.linalg.vecdot(p_sV.mul_(below_sV), below_sV) / total_s
    deviation_s = (square_s - mean_s.square()).clamp_(min=SMALLEST_DEVIATION**2).sqrt_()
    standardised_s: Tensor = (label_s - largest_s1.squeeze(-1) - mean_s) / deviation_s
    return standardised_s


def gradnorm(gradients: "Iterable[Tensor]") -> float:
    """Negated 2-norm of the gradient of the answer's mean token loss, over all parameters together, <= 0
    (Nasr, Shokri, Houmansadr 2019, https://arxiv.org/abs/1812.00910; for language models Wang, Wang, Li, Neel
    2024, https://arxiv.org/abs/2402.17012): what was trained on has been fitted, so it pulls less.

    OpenUnlearning averages the norms of the single tensors instead.
    """
    import torch

    # one after another, and read together: a device would wait at each to be read
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return -hypot(*torch.stack(norms).tolist())


# -- what the scores of many items give away ----------------------------------------------------------------


def _require_both(forget_scores: Scores, holdout_scores: Scores) -> None:
    if len(forget_scores) == 0 or len(holdout_scores) == 0:
        raise UserError(
            f"membership inference needs forget and holdout items, got {len(forget_scores)} and "
            f"{len(holdout_scores)}",
            "set `holdout` to data like the forget data that no model has seen",
        )


def _with_labels(forget_scores: Scores, holdout_scores: Scores) -> tuple[Floats, Floats]:
    labels = np.concatenate([np.ones(len(forget_scores)), np.zeros(len(holdout_scores))])
    return labels, np.concatenate([np.asarray(forget_scores, float), np.asarray(holdout_scores, float)])


def auc(forget_scores: Scores, holdout_scores: Scores) -> float:
    """ROC AUC of telling forget (positive) from holdout items, ties counting half.

    1: every forget item looks more trained on than every unseen one; 0.5: no telling; 0: every forget item
    looks less so.
    """
    from sklearn.metrics import roc_auc_score

    _require_both(forget_scores, holdout_scores)
    return float(roc_auc_score(*_with_labels(forget_scores, holdout_scores)))


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
    from sklearn.metrics import roc_curve

    _require_both(forget_scores, holdout_scores)
    fpr, tpr, _ = roc_curve(*_with_labels(forget_scores, holdout_scores))
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


# -- entries -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Attack:
    label: str
    what: str
    """What its score is, in words."""
    source: str
    column: Column
    """The score of an item, higher where the item looks more trained on."""


LOSS, MIN_K = "loss", "min_k"
ATTACKS = {
    LOSS: Attack(
        label="loss",
        what="the answer's loss",
        source="Yeom et al. 2018",
        column=Column("loss", made_of=lambda item: -item.values["answer_nll"]),
    ),
    "zlib": Attack(
        label="zlib",
        what="the answer's loss over the bytes that zlib packs it into",
        source="Carlini et al. 2021",
        column=Column("zlib"),
    ),
    MIN_K: Attack(
        label="min-k",
        what="the mean log-probability of the least likely tokens (40 %, or `metrics.min_k`)",
        source="Shi et al. 2024 (Min-K% Prob)",
        column=Column("min_k", "min-k", score=lambda answer: min_k(answer.log_p_T, answer.min_k)),
    ),
    "min_k_plus_plus": Attack(
        label="min-k++",
        what="the mean of the lowest log-probabilities (40 %, or `metrics.min_k`), standardised by the "
        "model's own distribution at their position",
        source="Zhang et al. 2024 (Min-K%++)",
        column=Column(
            "min_k_plus_plus", score=lambda answer: min_k_plus_plus(answer.standardised_T, answer.min_k)
        ),
    ),
    "reference": Attack(
        label="reference",
        what="how far the answer's loss is below that of the model at `metrics.mia_reference`",
        source="Carlini et al. 2021, as a difference: Watson et al. 2022",
        column=Column("reference"),
    ),
    "gradnorm": Attack(
        label="gradient-norm",
        what="the 2-norm of the gradient of the answer's loss over all parameters (`metrics.gradnorm`)",
        source="Nasr et al. 2019; Wang et al. 2024",
        column=Column("gradnorm"),
    ),
}
"""By name."""


def advantage_of(attack: str) -> str:
    """The bare name of an attack's advantage at its worst threshold; the loss's has none before it."""
    return "worst_threshold_advantage" if attack == LOSS else f"{attack}_worst_threshold_advantage"


def membership_metrics(
    group: str, sets: tuple[str, str], *, suite: str | None = None, words: str = ""
) -> Iterator[Metric]:
    """The entries of every attack between the two ``sets``, as `group/loss_auc`; ``words`` begin a label."""
    share = Metric(
        name="",
        label="",
        unit="fraction of items",
        direction="gold",
        description="",
        source="",
        degenerate="0 when all scores tie; an empty set is refused",
        aggregate=ByIntervals("no bootstrap is as honest as its interval (DKW)", (__name__,)),
    )
    for name, attack in ATTACKS.items():
        yield replace(
            share,
            name=f"{group}/{name}_auc",
            label=f"{words}{attack.label} AUC",
            unit="ROC AUC",
            description=f"membership inference by {attack.what}, forget against holdout: 1 = forget looks "
            "trained on, below gold's = over-forgotten and just as visible",
            source=attack.source,
            degenerate="0.5 when all scores tie; an empty set is refused",
            aggregate=Aggregation(auc_of_draws, (attack.column,)).on(*sets, suite=suite),
        )
    for name, attack in ATTACKS.items():
        yield replace(
            share,
            name=f"{group}/{name}_tpr_at_1_fpr",
            label=f"{words}{attack.label} TPR at 1 % FPR",
            description=f"share of the forget items that the {attack.label} attack gives away at the "
            "threshold where at most 1 % of the holdout items are called trained on too; with fewer than 100 "
            "holdout items, where none is",
            source="Carlini et al. 2022",
            aggregate=ByIntervals("draws of items hardly move the few highest holdout scores", (__name__,)),
        )
    for name, attack in ATTACKS.items():
        whose = "" if name == LOSS else f"{attack.label}, "
        yield replace(
            share,
            name=f"{group}/{advantage_of(name)}",
            label=f"{words}{whose}worst threshold's advantage",
            description=f"largest |TPR - FPR| over all thresholds of the {attack.label} attack; the interval "
            "is no bootstrap but holds for any population (DKW): its upper end bounds what any threshold "
            "gives away",
            source="Kolmogorov-Smirnov distance; Massart 1990",
        )
    yield replace(
        share,
        name=f"{group}/privleak",
        label=f"{words}privleak",
        unit="%",
        low=-100.0,
        high=inf,
        description="how far 1 - AUC of min-k is from gold's, relative to it: negative = still looks trained "
        "on, 0 = as gold, positive = over-forgotten",
        source="Shi et al. 2024 (MUSE)",
        degenerate="absent without a gold model, and where gold's AUC is 1",
        aggregate=ByIntervals("in draws of items in which gold's AUC is 1 it is infinite", (__name__,)),
    )


def _of_corpora() -> Iterator[Metric]:
    for metric in membership_metrics("privacy", ("forget", "holdout")):
        if metric.name == f"privacy/{LOSS}_auc":
            metric = replace(
                metric,
                role="forgotten",
                distance_term=5,
                headline=80,
                views=metric.views | {"runs"},
                says="Telling forget data from unseen data by the loss (AUC, 0.5 is guessing)",
                short="detectability",
                below_gold="Below gold's: the texts stand out by too high a loss, "
                "which shows what was removed as surely.",
            )
        yield metric


METRICS = list(_of_corpora())
