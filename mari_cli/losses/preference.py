"""Unlearning as preference optimisation: NPO and DPO.

Shapes: S = sequences of the step. Log-probabilities are log p(completion | prompt) in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mari_cli.losses.base import HeldLossConfig, RetainLoss, register
from mari_cli.sections import Flag, flags, positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


@register
@dataclass(kw_only=True)
class NPOConfig(HeldLossConfig):
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

    def objective(self) -> "Objective":
        import torch

        from mari_cli.losses.objective import beside_retain, cast_like, lengths, sequence_log_p
        from mari_cli.losses.readings import LogP

        def forget(step: "Step", readings: "Readings") -> "tuple[Tensor, Terms]":
            value = torch.zeros(())
            if LogP("forget") in readings:
                by_length = self.length_normalised
                log_p_S = sequence_log_p("forget", step, readings, length_normalised=by_length)
                reference_S = cast_like(log_p_S, step.reference_log_p["forget"])
                if by_length:
                    reference_S = reference_S / cast_like(log_p_S, lengths(step.positions["forget"]))
                value_S = npo(log_p_S, reference_S, beta=self.beta)
                value = value_S.sum() / step.positions["forget"].step_sequences
            return value, {"npo": value}

        log_p = LogP("forget")
        return beside_retain(self, forget, [log_p], nonlinear=(log_p,), reference_log_p=("forget",))


@register
@dataclass(kw_only=True)
class DPOConfig(HeldLossConfig):
    kind: str = "dpo"
    beta: float = 0.1
    """Inverse temperature, as in NPO; the loss has the same factor 2/β."""
    answers: list[str] = field(default_factory=lambda: ["I don't know.", "I have no information about that."])
    """Answers that the model should prefer; items take them in turn."""
    retain_loss: RetainLoss = RetainLoss.kl

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("loss", self, "beta")
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
    import torch

    from mari_cli.losses.objective import beside_retain, cast_like, sequence_log_p
    from mari_cli.losses.readings import LogP

    def forget(step: "Step", readings: "Readings") -> "tuple[Tensor, Terms]":
        value = torch.zeros(())
        if LogP("forget") in readings:
            both = []
            for role in ("alternative", "forget"):
                log_p_S = sequence_log_p(role, step, readings)
                both += [log_p_S, cast_like(log_p_S, step.reference_log_p[role])]
            value = dpo(*both, beta=beta).sum() / step.positions["forget"].step_sequences
        return value, {"dpo": value}

    log_p = LogP("forget"), LogP("alternative")
    answers = ("forget", "alternative")
    return beside_retain(config, forget, log_p, nonlinear=log_p, reference_log_p=answers)


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
