"""Membership inference, one item at a time: how much does the model treat it like training data?

Every score is higher where the item looks more trained on. `privacy` says what a score of many items gives
away.

Shapes: T = tokens of one answer, N = supervised positions, V = vocabulary. Log-probabilities are those of the
true token given the true tokens before it, in nats.
"""

import zlib
from collections.abc import Iterable
from math import hypot

import torch
from torch import Tensor

STRIP = 64
"""Rows whose probabilities exist at one time beside their logits."""
SMALLEST_DEVIATION = 1e-3
"""Of a log-probability, in nats: below it the digits of float32 logits are noise."""
NEVER = -100.0
"""A logit this far below the largest is as good as one of -inf, which cannot be averaged."""
ZLIB_LEVEL = 6


def _lowest(values_T: Tensor, k: float) -> float:
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


def min_k(log_probability_T: Tensor, k: float = 0.4) -> float:
    """Mean of the lowest share ``k`` of the log-probabilities, in nats, <= 0 (Shi et al. 2024, Min-K% Prob,
    https://arxiv.org/abs/2310.16789). The share is rounded down to whole tokens, but never below one."""
    return _lowest(log_probability_T, k)


def min_k_plus_plus(standardised_T: Tensor, k: float = 0.4) -> float:
    """Mean of the lowest share ``k`` of the `standardised` log-probabilities (Zhang et al. 2024, Min-K%++,
    https://arxiv.org/abs/2404.02936). Any sign, without unit; rounded as `min_k`."""
    return _lowest(standardised_T, k)


def standardised(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """(log p(label) - μ) / σ at each position [N], μ and σ those of log p of a token that the model draws.

    σ is at least `SMALLEST_DEVIATION`. At a distribution without spread (one certain token, or a uniform
    one) its own tokens thus have 0, and any other a very low value that is finite.
    """
    parts = zip(logits_NV.split(STRIP), labels_N.split(STRIP), strict=True)
    return torch.cat([_standardised(logits_sV, labels_s) for logits_sV, labels_s in parts])


def _standardised(logits_sV: Tensor, labels_s: Tensor) -> Tensor:
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


def gradnorm(gradients: Iterable[Tensor]) -> float:
    """Negated 2-norm of the gradient of the answer's mean token loss, over all parameters together, <= 0
    (Nasr, Shokri, Houmansadr 2019, https://arxiv.org/abs/1812.00910; for language models Wang, Wang, Li, Neel
    2024, https://arxiv.org/abs/2402.17012): what was trained on has been fitted, so it pulls less.

    OpenUnlearning averages the norms of the single tensors instead.
    """
    # one after another, and read together: a device would wait at each to be read
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return -hypot(*torch.stack(norms).tolist())
