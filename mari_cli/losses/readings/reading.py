"""The base classes of readings. A reading computes its value, and carries a gradient there to the logits.

The head pass (losses/engine.py) computes the logits of one chunk of positions at a time and gives the chunk
to every reading of its role, so a reading never sees the logits of a whole step. Readings are of four
families, which differ in their input:

    OfLogits       a number for each position, from the logits of that position
    OfPredictions  the same, in closed form at a few tokens of that position
    OfPools        a number for each pool of positions, from the mean predictions of the pool
    OfStates       the hidden states of a layer themselves; no logits

A reading is a frozen dataclass, so that it can be a key of `Readings` and of the cache of compiled kernels.
Shapes: c positions of a chunk, V vocabulary, D hidden size, K tokens, C pools.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from mari_cli.losses.fused import Logits, Predictions, Slope
from mari_cli.losses.marginal import Pools
from mari_cli.losses.step import Positions, Rows, Step


@dataclass(frozen=True)
class Reading:
    """A quantity that is read at the positions of ``role``."""

    role: str
    beside_reference: ClassVar[bool] = False
    """Whether the reading needs the predictions of the reference, the model before step 1."""

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def shape(self, rows: Mapping[str, Rows], step: Step) -> tuple[int, ...] | None:
        """The shape of the value; None where this part of the step has no positions to read."""
        return (len(rows[self.role].h_ND),) if self.role in rows else None


class OfLogits(Reading):
    def value(self, at: Logits) -> Tensor:
        """The value [c]. It runs inside a kernel, so it is elementwise or by rows."""
        raise NotImplementedError

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        """The gradient at the logits of Σ weight · value, in the form that the kernel adds up."""
        raise NotImplementedError

    def at_tokens(self, labels_c: Tensor, weight_c: Tensor) -> tuple[Tensor, Tensor] | None:
        """Tokens [c, K] and the gradient to add there [c, K], besides `slope`."""
        return None


@dataclass
class Chunk:
    """Positions of one role while their probabilities are in memory."""

    role: str
    index: slice | Tensor
    h_cD: Tensor
    labels_c: Tensor
    p_cV: Tensor
    log_p_c: Tensor
    """log p of the labels."""
    values: list[Tensor]
    """Values of the role's readings of logits, in their order."""
    slope_cV: Tensor | None
    """Derivative of the head's soft-capping."""
    reference_cV: Tensor | None
    """The reference's logits; the next field is the log Σ exp of each row."""
    q_normaliser_c: Tensor | None


class Push(NamedTuple):
    """A value and its gradient at the logits: a factor of p, and what is added at some tokens."""

    value: Tensor
    factor_c: Tensor
    ids_cK: Tensor
    added_cK: Tensor


class OfPredictions(Reading):
    """A reading against a distribution that was made before step 1 (`Supported`)."""

    stored_tokens: int
    """The number of its tokens stored for each position, beside the label."""

    def push(self, part: Chunk, rows: Rows, step: Step, weight: Tensor) -> Push:
        """Value and gradient of one chunk; ``part.p_cV`` is not changed. Value and weight are [..., c]."""
        raise NotImplementedError


Whole = Callable[[], Mapping[str, Positions]]
"""A function that returns the positions of the whole step, other micro-batches and processes included."""


class OfPools(Reading):
    """A reading of pools, which hold positions of several sequences: its loss is no sum over sequences."""

    scope: str
    """`step`: pools extend over the whole step. `micro`: over a micro-batch, which is then a part of the
    loss."""
    one_pool: bool
    """Whether all positions are one pool. Its logits can then be kept until the pool is averaged, and
    processes exchange sums of predictions instead of hidden states."""
    through_retain: bool
    """Whether the gradient runs through the retain side too."""

    @property
    def roles(self) -> tuple[str, ...]:
        return ("forget", "retain")

    def shape(self, rows: Mapping[str, Rows], step: Step) -> tuple[int, ...] | None:
        return None if step.pools is None else (len(step.pools),)

    def pools(self, positions: Mapping[str, Positions], whole: Whole) -> Pools | None:
        """The pools of a part of the step; None for a part without pools."""
        raise NotImplementedError

    def of_means(
        self, mean: Mapping[str, Tensor], prior_C: Tensor, share_C: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The value of each pool [C], and its gradient at both sides' mean predictions [C, V]."""
        raise NotImplementedError


class OfStates(Reading):
    layer: int | None

    def value(self, rows: Rows) -> Tensor:
        """The hidden states [N, D]; the gradient at this value is the gradient at the hidden states."""
        raise NotImplementedError
