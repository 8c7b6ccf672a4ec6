"""What a reading is: it brings its value, and how a gradient at its value is carried to the logits.

The head pass (losses/engine.py) makes the logits of one chunk of positions at a time and shows the chunk to
every reading of its role, so a reading never sees the logits of a whole step. A reading is one of four
families, by what it needs:

    OfLogits       a number for each position, from the logits of that position
    OfPredictions  the same, in closed form at a few tokens of that position
    OfPools        a number for each pool of positions, from the mean predictions of the pool
    OfStates       the hidden states of a layer themselves; no logits

A reading is a frozen dataclass, so that it is a key of `Readings` and of the compiled kernels.
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
    """What is read of the positions of ``role``."""

    role: str
    beside_reference: ClassVar[bool] = False
    """Whether it compares with the predictions of the reference, the model before step 1."""

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def shape(self, rows: Mapping[str, Rows], step: Step) -> tuple[int, ...] | None:
        """Of its value; None where this part of the step has nothing to read."""
        return (len(rows[self.role].h_ND),) if self.role in rows else None


class OfLogits(Reading):
    def value(self, at: Logits) -> Tensor:
        """[c]. Runs inside a kernel: elementwise and by rows."""
        raise NotImplementedError

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope:
        """The gradient at the logits of Σ weight · value, in the form that the kernel adds up."""
        raise NotImplementedError

    def at_tokens(self, labels_c: Tensor, weight_c: Tensor) -> tuple[Tensor, Tensor] | None:
        """Tokens [c, K] and what is added to the gradient there [c, K], besides `slope`."""
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
    """Of the labels."""
    values: list[Tensor]
    """Of the role's readings of logits, in their order."""
    slope_cV: Tensor | None
    """Derivative of the head's soft-capping."""
    reference_cV: Tensor | None
    """The reference's logits, and of each row log Σ exp."""
    q_normaliser_c: Tensor | None


class Push(NamedTuple):
    """A value, and its gradient at the logits: factor · p, and what is added at some tokens."""

    value: Tensor
    factor_c: Tensor
    ids_cK: Tensor
    added_cK: Tensor


class OfPredictions(Reading):
    """Against a distribution that was made before step 1 (`Supported`)."""

    stored_tokens: int
    """How many of its tokens are stored for each position, beside the label."""

    def push(self, part: Chunk, rows: Rows, step: Step, weight: Tensor) -> Push:
        """Of one chunk, whose ``p_cV`` is left as it is. The last dimension of value and weight is c."""
        raise NotImplementedError


Whole = Callable[[], Mapping[str, Positions]]
"""The positions of the whole step, those of other micro-batches and processes among them."""


class OfPools(Reading):
    """A loss with such a reading is no sum over sequences: the pools lie across them."""

    scope: str
    """`step`: the pools lie across the whole step. `micro`: across a micro-batch, which is then a part of the
    loss."""
    one_pool: bool
    """Whether all positions are one pool: its logits are worth holding until the pool is averaged, and
    processes exchange its sums of predictions, not hidden states."""
    through_retain: bool
    """Whether the gradient runs through the retain side too."""

    @property
    def roles(self) -> tuple[str, ...]:
        return ("forget", "retain")

    def shape(self, rows: Mapping[str, Rows], step: Step) -> tuple[int, ...] | None:
        return None if step.pools is None else (len(step.pools),)

    def pools(self, positions: Mapping[str, Positions], whole: Whole) -> Pools | None:
        """Those of a part of the step; None where it has none."""
        raise NotImplementedError

    def of_means(
        self, mean: Mapping[str, Tensor], prior_C: Tensor, share_C: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The value of each pool [C], and its gradient at both sides' mean predictions [C, V]."""
        raise NotImplementedError


class OfStates(Reading):
    layer: int | None

    def value(self, rows: Rows) -> Tensor:
        """[N, D]; the gradient at it is that at the hidden states."""
        raise NotImplementedError
