"""RMU: representation misdirection for unlearning, which steers hidden states.

N. Li et al. 2024, "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning",
https://arxiv.org/abs/2403.03218, section 4. The authors average over the D entries of a state, where the
formula sums, and train a few layers; here every weight that the layer depends on is trained.
Shapes: N positions, S sequences, D hidden size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import ForgetLossConfig, register
from mari_cli.sections import non_negative, positive, seeds

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Positions, Step


@register
@dataclass(kw_only=True)
class RMUConfig(ForgetLossConfig):
    kind: str = "rmu"
    layer: int | None = None
    """Hidden layer that is steered, 0 the embeddings; null: the middle one. Layers above it stay as they
    are."""
    steering: float = 6.5
    """Length c of the vector c·u that the forget states are steered to."""
    seed: int = 0
    """Of the direction u."""

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("loss", self, "layer")
        positive("loss", self, "steering")
        seeds("loss.", self, "seed")

    def objective(self) -> "Objective":
        import torch

        from mari_cli.losses.objective import Needs, Objective
        from mari_cli.losses.readings import HiddenStates

        forget, retain = (HiddenStates(role, self.layer) for role in ("forget", "retain"))

        def terms(step: "Step", readings: "Readings") -> "Terms":
            steered = held = torch.zeros(())
            if forget in readings:
                h_ND = readings[forget]
                target_D = self.steering * direction(h_ND.shape[-1], seed=self.seed)
                steered = step_distance(h_ND, target_D, step.positions["forget"])
            if retain in readings:
                held = step_distance(
                    readings[retain], step.reference_layer["retain"], step.positions["retain"]
                )
            loss = self.forget_weight * steered + self.retain_weight * held
            return {"loss": loss, "forget_steering": steered, "retain_states": held}

        return Objective(terms, Needs((forget, retain), reference_layer=("retain",)))


def direction(size: int, *, seed: int) -> "Tensor":
    """u [D]: entries drawn evenly from [0, 1), scaled to the length 1."""
    import torch

    u_D = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(u_D, dim=0)


def step_distance(h_ND: "Tensor", target: "Tensor", positions: "Positions") -> "Tensor":
    """This part's share of the mean over the step's sequences of (1/T) Σ_t ‖h_t - target_t‖², T the number of
    supervised tokens of a sequence. ``target`` [N, D] or [D]."""
    from mari_cli.losses.objective import lengths, like
    from mari_cli.transfer import sent

    square_N = (h_ND - like(h_ND, target)).pow(2).sum(-1)
    sequence_N = sent(positions.sequence_N, h_ND.device)
    square_S = square_N.new_zeros(positions.sequences).index_add(0, sequence_N, square_N)
    return (square_S / like(square_S, lengths(positions))).sum() / positions.step_sequences
