"""Unlearning as preference optimisation: NPO and DPO.

Shapes: S = sequences of the step. Log-probabilities are log p(completion | prompt) in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mari_cli.losses.base import ForgetLossConfig, RetainLoss, register
from mari_cli.sections import Flag, flags, positive, require

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(kw_only=True)
class NPOConfig(ForgetLossConfig):
    kind: str = "npo"
    beta: float = 0.1
    """Inverse temperature: small is close to gradient ascent, large stops early."""
    length_normalised: Flag = False
    """Divide each answer's log-probability by its length; the paper sums."""
    retain_loss: RetainLoss = RetainLoss.kl

    def __post_init__(self) -> None:
        super().__post_init__()
        flags("loss", self, "length_normalised")
        positive("loss", self, "beta")


@register
@dataclass(kw_only=True)
class DPOConfig(ForgetLossConfig):
    kind: str = "dpo"
    beta: float = 0.1
    """Inverse temperature, as NPO's; the loss has the same factor 2/β."""
    answers: list[str] = field(default_factory=lambda: ["I don't know.", "I have no information about that."])
    """What the model should rather say; drawn in turn by item."""
    retain_loss: RetainLoss = RetainLoss.kl

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("loss", self, "beta")
        require(bool(self.answers), "loss.answers must not be empty")
        require(all(answer.strip() for answer in self.answers), "loss.answers must not hold an empty answer")

    @property
    def alternative_answers(self) -> Sequence[str]:
        return self.answers


def npo(log_p_S: "Tensor", reference_S: "Tensor", *, beta: float) -> "Tensor":
    """Negative preference optimization, R. Zhang et al. 2024, https://arxiv.org/abs/2404.05868, eq. 3.

    [S], unreduced: -(2/β) log σ(-β log(p/p_ref)), gradient ascent with a brake, weaker the further an answer
    is below the reference. At the reference it is 2 log 2 / β.
    """
    from torch.nn.functional import logsigmoid

    return -(2 / beta) * logsigmoid(-beta * (log_p_S - reference_S))


def dpo(
    preferred_S: "Tensor",
    preferred_reference_S: "Tensor",
    log_p_S: "Tensor",
    reference_S: "Tensor",
    *,
    beta: float,
) -> "Tensor":
    """Direct preference optimization, R. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7.

    [S], unreduced: -(2/β) log σ(β · margin), with the factor 2/β of `npo`, as TOFU and OpenUnlearning have
    it. Prefers an "I don't know" answer to the forget answer. At the reference it is 2 log 2 / β, and its
    gradient at either log-probability is of size 1, that of gradient ascent.
    """
    from torch.nn.functional import logsigmoid

    margin_S = (preferred_S - preferred_reference_S) - (log_p_S - reference_S)
    return -(2 / beta) * logsigmoid(beta * margin_S)
