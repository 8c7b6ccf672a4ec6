"""Siblings: q is the model before step 1, corrected by the difference of two small models: one trained on the
retain data, one on retain and forget data together.

    q ∝ p_target · (p_retain / p_both)^w

This is the teacher of divergence decoding (A. Liu et al. 2021, "DExperts", https://arxiv.org/abs/2105.03023,
applied to unlearning). At w = 1 it leaks; at larger w it also loses what other documents say. The first small
model alone, as `base`, was better where both were measured.
"""

from torch import Tensor


def corrected(log_target: Tensor, log_retain: Tensor, log_both: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised."""
    return log_target + weight * (log_retain - log_both)
