"""Unlearning as preference optimisation: NPO and DPO.

Shapes: S = sequences of the step. Log-probabilities are log p(completion | prompt) in nats.
"""

import torch.nn.functional as F
from torch import Tensor


def npo(log_p_S: Tensor, reference_S: Tensor, *, beta: float) -> Tensor:
    """Negative preference optimization, R. Zhang et al. 2024, https://arxiv.org/abs/2404.05868, eq. 3.

    [S], unreduced: -(2/β) log σ(-β log(p/p_ref)), gradient ascent with a brake, weaker the further an answer
    is below the reference. At the reference it is 2 log 2 / β.
    """
    return -(2 / beta) * F.logsigmoid(-beta * (log_p_S - reference_S))


def dpo(
    preferred_S: Tensor, preferred_reference_S: Tensor, log_p_S: Tensor, reference_S: Tensor, *, beta: float
) -> Tensor:
    """Direct preference optimization, R. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7.

    [S], unreduced: -(2/β) log σ(β · margin), with the factor 2/β of `npo`, as TOFU and OpenUnlearning have
    it. Prefers an "I don't know" answer to the forget answer. At the reference it is 2 log 2 / β, and its
    gradient at either log-probability is of size 1, that of gradient ascent.
    """
    margin_S = (preferred_S - preferred_reference_S) - (log_p_S - reference_S)
    return -(2 / beta) * F.logsigmoid(beta * margin_S)
