"""What every loss has: its section of a configuration, and its place among the losses.

A loss is one file: its configuration, its formula and what it reads of the model. A configuration is read
before torch is loaded, so such a file imports torch inside functions, and outside for annotations alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from mari_cli.losses.support import SupportRequest
from mari_cli.sections import Section, display_name, non_negative, require

if TYPE_CHECKING:
    from torch import Tensor

    from mari_cli.losses.objective import Objective


class RetainLoss(StrEnum):
    """What holds the retain side: a mean over the targets of the retain items (of pairs the answers, of
    running text all tokens), never over prompts or padding. `kl` is KL(model before ‖ model now) there; TOFU
    and OpenUnlearning average theirs over prompts and padding too. `jensen_shannon` is the Jensen-Shannon
    divergence between the two. `states` is the squared distance between the hidden states of both in one
    layer (RMU's), averaged over the targets of each item and then over items."""

    none = "none"
    nll = "nll"
    kl = "kl"
    jensen_shannon = "jensen_shannon"
    states = "states"


@dataclass(frozen=True)
class Alternates:
    """Other answers to the forget prompts: those of a file, or what the model before writes."""

    path: str | None
    prompt_field: str | None
    completion_field: str | None
    instruction: str
    """With {prompt} and {answer}."""
    each: int
    """Answers to each prompt that the model writes."""
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class GradientFilter:
    """What every step's gradient loses, which trains the MLPs' matrices alone."""

    components: int
    """How many singular vectors of the gradient of the forget data, at most."""
    apply: "Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]"
    """The filtered gradient [A, B]. It takes the gradient, left vectors [A, K], strengths [K], right ones
    [B, K]."""


@dataclass(kw_only=True)
class LossConfig(Section):
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("loss", self, "retain_weight")

    def objective(self) -> "Objective":
        """The function to minimise, and what it reads of the model."""
        raise ValueError(f"no loss of kind `{self.kind}`")

    @property
    def title(self) -> str:
        """What the method is called in tables."""
        return display_name(self)

    @property
    def alternative_answers(self) -> Sequence[str]:
        """What the model should rather answer to the forget prompts; nothing where the loss asks for none."""
        return ()

    @property
    def wanted_tokens(self) -> str | None:
        """A text whose tokens, over and over, the loss wants at the targets of the forget items, after the
        true tokens before; None: it wants none. The role `alternative` then has the forget items, so
        labelled."""
        return None

    @property
    def alternates_request(self) -> "Alternates | None":
        """Where the answers come from that the loss prefers, each forget prompt with its own; None: it asks
        for none."""
        return None

    @property
    def negation(self) -> float | None:
        """How far from where they began the weights go the other way, in lengths of the way that training
        took; None: they stay where training led."""
        return None

    @property
    def gradient_filter(self) -> "GradientFilter | None":
        """What is taken off each step's gradient; None: nothing."""
        return None

    @property
    def support_request(self) -> SupportRequest | None:
        """The distribution that the loss wants at each forget position, made before step 1; None: it wants
        none."""
        return None


@dataclass(kw_only=True)
class ForgetLossConfig(LossConfig):
    """A term of the forget data, and what holds the retain side."""

    forget_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("loss", self, "forget_weight")


@dataclass(kw_only=True)
class HeldLossConfig(ForgetLossConfig):
    """A term of the forget data, beside any of the terms that hold the retain side."""

    retain_loss: RetainLoss = RetainLoss.nll
    retain_layer: int | None = None
    """`retain_loss=states`: the hidden layer that is held, 0 the embeddings; null: the middle one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("loss", self, "retain_layer")
        require(
            self.retain_layer is None or self.retain_loss is RetainLoss.states,
            f"loss.retain_layer={self.retain_layer} needs loss.retain_loss=states",
        )


LOSSES: dict[str, type[LossConfig]] = {}
"""Every loss by its kind."""

L = TypeVar("L", bound=LossConfig)


def register(loss: type[L]) -> type[L]:
    """Make ``loss`` known as `loss=KIND`."""
    LOSSES[loss.kind] = loss
    return loss
