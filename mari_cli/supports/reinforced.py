"""Reinforced: q is the model before step 1, minus what rises when it is tuned on the forget data again.

    z_q = z_before - w · max(0, z_reinforced - z_before),    z logits, q = softmax(z_q)

R. Eldan, M. Russinovich 2023, "Who's Harry Potter? Approximate Unlearning in LLMs",
https://arxiv.org/abs/2310.02238: w is their α. They fine-tune on the most probable token of q, and also swap
names; MUSE answers with q itself. Here a loss distils q.
"""

from torch import Tensor


def weakened(z_before: Tensor, z_reinforced: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised. The logits must not be normalised, because a shift changes what rises."""
    return z_before - weight * (z_reinforced - z_before).clamp_min(0)
