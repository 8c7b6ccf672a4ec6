"""The data of one optimiser step, or of a part of it, that a loss gets.

Shapes: N positions, S sequences, M forget positions, D hidden size, K stored tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from mari_cli.losses.marginal import Pools


@dataclass(frozen=True)
class Positions:
    """The supervised positions of one role in a part of a step, derived from the tokens alone, on the CPU."""

    labels_N: Tensor
    sequence_N: Tensor
    """The sequence of the part that a position belongs to."""
    index_N: Tensor
    """Index of the token in its completion or block."""
    sequences: int
    """The number of sequences of the part."""
    step_positions: int
    """The number of positions of this role in the whole step."""
    step_sequences: int

    def at(self, index_N: Tensor) -> "Positions":
        """The positions ``index_N`` alone."""
        return replace(
            self,
            labels_N=self.labels_N[index_N],
            sequence_N=self.sequence_N[index_N],
            index_N=self.index_N[index_N],
        )


@dataclass(frozen=True)
class Step:
    """The data of a step, or of a part of it, besides its readings, by role: `forget`, `retain`, and
    `alternative`, the forget prompts with the answers that the loss prefers."""

    positions: Mapping[str, Positions]
    reference_log_p: Mapping[str, Tensor] = field(default_factory=dict)
    """The reference's log p(completion | prompt) of each sequence [S], in nats."""
    pools: Pools | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """The number of positions of each role in the whole step, also of roles absent from this part."""
    reference_layer: Mapping[str, Tensor] = field(default_factory=dict)
    """The reference's hidden states [N, D] at the layer that the loss reads."""
    retain_weight: Tensor | None = None
    """The weight of the retain term in this step, if the loss changes it; None: the configuration's."""


@dataclass(frozen=True)
class Supported:
    """A distribution q over tokens for each position, made before step 1: the probabilities of some different
    tokens, the position's label first. All other tokens are one outcome with the rest of the probability."""

    ids_MK: Tensor
    probability_MK: Tensor


@dataclass(frozen=True)
class Rows:
    """The supervised positions of one role, as the backbone and the reference compute them."""

    h_ND: Tensor
    labels_N: Tensor
    reference_ND: Tensor | None = None
    """The reference's hidden states, where a loss needs its predictions."""
    supported: Supported | None = None
    layer_ND: Tensor | None = None
    """The model's hidden states at the layer that the loss reads."""
