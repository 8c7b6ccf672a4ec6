"""The configuration that every loss has, and the register of losses.

A loss is one file with its configuration, its formula and its readings of the model. Configurations are read
before torch is loaded, so such a file imports torch inside functions, or for annotations alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

from mari_cli.losses.support import SupportRequest
from mari_cli.sections import Section, display_name, non_negative, require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective


class RetainLoss(StrEnum):
    """The term that keeps the model as it is on the retain data: a mean over the targets of the retain items
    (the answers of pairs, all tokens of running text), never over prompts or padding. `kl` is KL(model before
    step 1 ‖ model now); TOFU and OpenUnlearning average over prompts and padding too. `jensen_shannon` is the
    Jensen-Shannon divergence of these two models. `states` is the squared distance of their hidden states in
    one layer (as in RMU), averaged over the targets of each item and then over items."""

    none = "none"
    nll = "nll"
    kl = "kl"
    jensen_shannon = "jensen_shannon"
    states = "states"


class Alternates(Protocol):
    """What a loss says of other answers to the forget prompts: from a file, or written by the model before
    step 1."""

    path: str | None
    prompt_field: str | None
    completion_field: str | None
    instruction: str
    """With {prompt} and {answer}."""
    alternates: int
    """The answers that the model writes to each prompt."""
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class GradientFilter:
    """A filter for the gradient of every step; only the matrices of the MLPs are trained."""

    components: int
    """Most singular vectors of the forget data's gradient that the filter gets."""
    apply: "Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]"
    """The filter: from gradient [A, B], left vectors [A, K], strengths [K] and right vectors [B, K] to the
    filtered gradient [A, B]."""


@dataclass(kw_only=True)
class LossConfig(Section):
    section = "loss"
    retain_weight: float = non_negative(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        every = [field.name for field in fields(self) if field.name.endswith("_weight")]
        weights = [name for name in every if self.holds_retain or name != "retain_weight"]
        require(
            every == ["retain_weight"] or any(getattr(self, name) for name in weights),
            f"{' and '.join(f'loss.{name}' for name in weights)} = 0: no step would change anything",
        )

    @property
    def holds_retain(self) -> bool:
        """Whether a term of the loss is about the retain data."""
        return getattr(self, "retain_loss", None) is not RetainLoss.none

    def unread(self) -> dict[str, str]:
        """By key what nothing reads, and what it needs (launch/unread.py)."""
        unheld = {"retain_weight": "a loss with a retain term (`loss.retain_loss`)"}
        return {} if self.holds_retain else unheld

    def objective(self) -> "Objective":
        """The function to minimise and the readings that it needs. Raises ValueError for an unknown kind."""
        raise ValueError(f"no loss of kind `{self.kind}`")

    @property
    def title(self) -> str:
        """The name of the method in tables."""
        return display_name(self)

    @property
    def alternative_answers(self) -> Sequence[str]:
        """Answers that the model should prefer at the forget prompts; empty where the loss needs none."""
        return ()

    @property
    def wanted_tokens(self) -> str | None:
        """A text whose tokens, repeated, are the labels that the loss wants at the targets of the forget
        items, while the inputs stay the true tokens; None: the loss wants none. The role `alternative` then
        holds the forget items with these labels."""
        return None

    @property
    def alternates_request(self) -> "Alternates | None":
        """The source of the answers that the loss prefers, one for each forget prompt; None: no such
        answers."""
        return None

    @property
    def negation(self) -> float | None:
        """The factor α of a task vector: training moves the weights by Δ, then they are set to start - α · Δ.
        None: the weights stay where training led."""
        return None

    @property
    def gradient_filter(self) -> "GradientFilter | None":
        """The filter of each step's gradient; None: no filter."""
        return None

    @property
    def support_request(self) -> SupportRequest | None:
        """The distribution that the loss wants at each forget position, made before step 1; None: no
        distribution."""
        return None


@dataclass(kw_only=True)
class ForgetLossConfig(LossConfig):
    """A term on the forget data; the loss itself fixes the retain loss."""

    forget_weight: float = non_negative(1.0)


@dataclass(kw_only=True)
class RetainTermConfig(LossConfig):
    """A loss beside which any retain loss may stand."""

    retain_loss: RetainLoss = RetainLoss.nll
    retain_layer: int | None = non_negative(None)
    """The hidden layer that `retain_loss=states` compares; 0: the embeddings, null: the middle layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.retain_layer is None or self.retain_loss is RetainLoss.states,
            f"loss.retain_layer={self.retain_layer} needs loss.retain_loss=states",
        )


@dataclass(kw_only=True)
class HeldLossConfig(ForgetLossConfig, RetainTermConfig):
    """A term on the forget data, beside any retain loss."""


LOSSES: dict[str, type[LossConfig]] = {}
"""Every loss by its kind."""

L = TypeVar("L", bound=LossConfig)


def register(loss: type[L]) -> type[L]:
    """Register ``loss`` as `loss=KIND`."""
    LOSSES[loss.kind] = loss
    return loss
