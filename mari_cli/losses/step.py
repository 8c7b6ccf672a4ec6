"""What a loss is given of one optimiser step, or of a part of it.

Shapes: N positions, S sequences, M forget positions, D hidden size, K stored tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from mari_cli.losses.marginal import Pools


@dataclass(frozen=True)
class Positions:
    """Where one role is supervised in a part of a step: known from the tokens alone, on the CPU."""

    labels_N: Tensor
    sequence_N: Tensor
    """Which sequence of the part a position belongs to."""
    index_N: Tensor
    """Index of the token in its completion or block."""
    sequences: int
    """Sequences of the part."""
    step_positions: int
    """Positions of this role in the whole step."""
    step_sequences: int

    def at(self, index_N: Tensor) -> "Positions":
        """Only those positions."""
        return replace(
            self,
            labels_N=self.labels_N[index_N],
            sequence_N=self.sequence_N[index_N],
            index_N=self.index_N[index_N],
        )


@dataclass(frozen=True)
class Step:
    """What an objective knows of a step, or of a part of it, besides its readings, by role: `forget`,
    `retain`, and `alternative`, the forget prompts with the answers that the loss prefers."""

    positions: Mapping[str, Positions]
    reference_log_p: Mapping[str, Tensor] = field(default_factory=dict)
    """The reference's log p(completion | prompt) of each sequence [S], in nats."""
    pools: Pools | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """Positions of each role in the whole step, also of a role that this part has nothing of."""
    reference_layer: Mapping[str, Tensor] = field(default_factory=dict)
    """The reference's hidden states [N, D] at the layer that the loss reads."""
    retain_weight: Tensor | None = None
    """What the retain term weighs in this step, where that changes as training goes on; None: what the
    configuration says."""


@dataclass(frozen=True)
class Supported:
    """A distribution q over tokens for each position, made before step 1: q of some tokens, the position's
    own label first and none twice. What is missing to 1 lies on all other tokens, which are one outcome."""

    ids_MK: Tensor
    probability_MK: Tensor


@dataclass(frozen=True)
class Rows:
    """The supervised positions of one role, as the backbone and the reference give them."""

    h_ND: Tensor
    labels_N: Tensor
    reference_ND: Tensor | None = None
    """The reference's hidden states, where its predictions are asked for."""
    supported: Supported | None = None
    layer_ND: Tensor | None = None
    """The model's hidden states at the layer that the loss reads."""
