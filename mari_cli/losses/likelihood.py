"""Log-likelihood of labels, and divergence from a reference: the sums every baseline is made of.

Shapes: N = supervised positions, V = vocabulary, S = sequences.
"""

import torch
from torch import Tensor


def token_nll(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Negative log-likelihood of each label [N], in nats."""
    return torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")


def sequence_log_probability(
    logits_NV: Tensor, labels_N: Tensor, sequence_N: Tensor, sequences: int
) -> Tensor:
    """log p(completion | prompt) of each sequence [S], in nats, summed over its tokens."""
    return logits_NV.new_zeros(sequences).index_add(0, sequence_N, -token_nll(logits_NV, labels_N))


def kl_from_reference(logits_NV: Tensor, reference_NV: Tensor) -> Tensor:
    """KL(reference ‖ model) at each position [N], in nats; both arguments are logits."""
    log_p_NV, log_q_NV = logits_NV.log_softmax(-1), reference_NV.log_softmax(-1)
    return (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1)
