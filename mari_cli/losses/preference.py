"""Unlearning as preference optimisation: NPO and DPO.

Shapes: S = sequences of the step. Log-probabilities are log p(completion | prompt) in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register
from mari_cli.sections import Flag, flag, positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective


@register
@dataclass(kw_only=True)
class NPOConfig(HeldLossConfig):
    kind: str = "npo"
    beta: float = positive(0.1)
    """Inverse temperature: small is close to gradient ascent, large stops early."""
    length_normalised: Flag = flag(False)
    """Divide each answer's log-probability by its length; the paper sums."""
    retain_loss: RetainLoss = RetainLoss.kl

    def objective(self) -> "Objective":
        from mari_cli.losses.objective import sequences_beside_retain

        formula, by_length = partial(npo, beta=self.beta), self.length_normalised
        return sequences_beside_retain(
            self, "npo", formula, beside_reference=True, length_normalised=by_length
        )


@register
@dataclass(kw_only=True)
class DPOConfig(HeldLossConfig):
    kind: str = "dpo"
    beta: float = positive(0.1)
    """Inverse temperature, as in NPO; the loss has the same factor 2/β."""
    answers: list[str] = field(default_factory=lambda: ["I don't know.", "I have no information about that."])
    """Answers that the model should prefer; items take them in turn."""
    retain_loss: RetainLoss = RetainLoss.kl

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.answers), "loss.answers must not be empty")
        require(all(answer.strip() for answer in self.answers), "loss.answers must not hold an empty answer")

    @property
    def alternative_answers(self) -> Sequence[str]:
        return self.answers

    def objective(self) -> "Objective":
        return preferring_alternatives(self, beta=self.beta)


def preferring_alternatives(config: HeldLossConfig, *, beta: float) -> "Objective":
    """`dpo` of the answers in the role `alternative` over the forget answers, as a mean over the step's
    sequences, plus the retain loss of ``config``."""
    from mari_cli.losses.objective import sequences_beside_retain

    formula, roles = partial(dpo, beta=beta), ("alternative", "forget")
    return sequences_beside_retain(config, "dpo", formula, roles=roles, beside_reference=True)


def npo(log_p_S: "Tensor", reference_S: "Tensor", *, beta: float) -> "Tensor":
    """Negative preference optimization, R. Zhang et al. 2024, https://arxiv.org/abs/2404.05868, eq. 3.

    [S], unreduced: -(2/β) log σ(-β log(p/p_ref)). It is gradient ascent whose gradient decreases as an answer
    falls below the reference. At the reference the loss is 2 log 2 / β.
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

    [S], unreduced: -(2/β) log σ(β · margin), with the factor 2/β of `npo`, as in TOFU and OpenUnlearning. The
    preferred answer is one like "I don't know". At the reference the loss is 2 log 2 / β, and its gradient at
    either log-probability has the size 1, as in gradient ascent.
    """
    from torch.nn.functional import logsigmoid

    margin_S = (preferred_S - preferred_reference_S) - (log_p_S - reference_S)
    return -(2 / beta) * logsigmoid(beta * margin_S)
