"""RMU: representation misdirection for unlearning, which steers hidden states.

N. Li et al. 2024, "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning",
https://arxiv.org/abs/2403.03218, section 4. The authors and OpenUnlearning average over the D entries of a
state, where the formula sums; the ratio of both terms is the same. They train a few layers; here all weights
up to the layer are trained. OpenUnlearning reads the states at the targets, and divides the sum over one
sequence by the length of every sequence of the micro-batch. The loss here reads the states that predict the
targets, and divides by the length of their sequence. Shapes: N positions, S sequences, D hidden size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mari_cli.losses.base import ForgetLossConfig, RetainLoss, register
from mari_cli.sections import non_negative, positive, seeds

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


@register
@dataclass(kw_only=True)
class RMUConfig(ForgetLossConfig):
    kind: str = "rmu"
    layer: int | None = non_negative(None)
    """Hidden layer that is steered, 0: the embeddings, null: the middle one. Layers above it do not
    change."""
    steering: float = positive(6.5)
    """Length c of the vector c·u that the forget states are moved to."""
    seed: int = seeds(0)
    """Seed of the direction u."""
    retain_loss: RetainLoss = RetainLoss.states
    """`states` are the hidden states of the layer that is steered."""

    def objective(self) -> "Objective":
        import torch

        from mari_cli.losses.objective import beside_retain, step_distance
        from mari_cli.losses.readings import HiddenStates

        states = HiddenStates("forget", self.layer)

        def forget(step: "Step", readings: "Readings") -> "tuple[Tensor, Terms]":
            steered = torch.zeros(())
            if states in readings:
                h_ND = readings[states]
                target_D = self.steering * direction(h_ND.shape[-1], seed=self.seed)
                steered = step_distance(h_ND, target_D, step.positions["forget"])
            return steered, {"forget_steering": steered}

        retain, layer = self.retain_loss, self.layer
        return beside_retain(self, forget, [states], nonlinear=(), retain=retain, layer=layer)


def direction(size: int, *, seed: int) -> "Tensor":
    """u [D]: entries drawn uniformly from [0, 1), then scaled to length 1."""
    import torch

    u_D = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(u_D, dim=0)
