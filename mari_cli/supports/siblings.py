"""Siblings: q is the model before, corrected by what two small models differ in: one trained on the retain
data, one on retain and forget together.

    q ∝ p_target · (p_retain / p_both)^w

the teacher of divergence decoding (A. Liu et al. 2021, "DExperts", https://arxiv.org/abs/2105.03023, turned
on unlearning). It leaks at w = 1 and takes what others' documents say too at larger w; of the two models the
first alone, as `base`, did better where it was tried.
"""

from torch import Tensor


def corrected(log_target: Tensor, log_retain: Tensor, log_both: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised."""
    return log_target + weight * (log_retain - log_both)
