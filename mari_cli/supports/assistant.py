"""Assistant: q is the model before step 1, minus a model that was tuned on the forget data alone.

    q ∝ p_target / p_assistant^w

J. Ji et al. 2024, "Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit
Difference", https://arxiv.org/abs/2406.08607: the difference of logits. The authors also train their
assistant not to know the retain data. The assistant here is not, so q also loses what both models predict.
"""

from torch import Tensor


def subtracted(log_target: Tensor, log_assistant: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised."""
    return log_target - weight * log_assistant
