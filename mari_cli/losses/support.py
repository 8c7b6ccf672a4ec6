"""Who says, before step 1, what the retain data supports at each forget position, and how it is kept."""

from dataclasses import dataclass
from enum import StrEnum

from mari_cli.sections import Flag, flags, non_negative, positive, require


class SupportSource(StrEnum):
    auto = "auto"
    neighbours = "neighbours"
    twins = "twins"
    siblings = "siblings"
    assistant = "assistant"
    reinforced = "reinforced"
    base = "base"
    gold = "gold"


@dataclass(kw_only=True)
class ContextConfig:
    """Neighbourhoods of the `context` estimator: of each forget position among all of the retain corpus."""

    layer: int | None = None
    """Hidden layer of the reference whose states are compared; null: the middle one."""
    temperature: float = 0.1
    """Of the softmax over cosine similarities: small listens to the nearest alone."""
    neighbours: int = 32
    """Retain positions that speak for a forget position; their weights sum to 1."""
    stored_tokens: int = 64
    """How many of a distribution's most probable tokens are kept beside the label; the rest is one tail."""

    def __post_init__(self) -> None:
        positive("loss.context", self, "temperature", "neighbours", "stored_tokens")
        non_negative("loss.context", self, "layer")


MOST_TWINS = 10_000
PLAIN_GENERATED, PLAIN_CONTRAST = 0.4, 0.75
"""`loss.support.generated` and `.contrast` of `auto` without a holdout: the middle of what holdouts asked for
on two fictional worlds (0.2, 0.86; 0.3, 0.93) and on TOFU (0.7, 0.44)."""


@dataclass(kw_only=True)
class SupportConfig:
    """Who says, for each forget position, what the retain data supports there (`loss.estimator=context`): a
    distribution q over tokens, made before step 1 (mari_cli/supports/)."""

    source: SupportSource = SupportSource.neighbours
    """`auto`: `twins` where the forget data has key strings, else `neighbours`; the run says which.
    `neighbours`: the model before, in like contexts of the retain corpus (`loss.context`). `twins`: the
    model before, asked with the names that only the forget data holds swapped for names of the retain data.
    `base`: the model before fine-tuning, tuned on the retain corpus for a part of a retraining. `siblings`:
    the model before, corrected by two small models, one trained on retain, one on both. `assistant`: the
    model before, less a model tuned on the forget data alone. `reinforced`: the model before, less what
    rises as it is tuned on the forget data again. `gold`: a model that never saw the forget data (an upper
    bound, to diagnose with)."""
    floor: float = 1e-12
    """No token that is kept by name gets a smaller probability than this."""
    keys: str | None = None
    """`twins`: a text file with one key string a line, as a person's name; null: the word sequences that at
    least `key_records` forget records hold and no retain record does."""
    key_records: int = 3
    twins: int = 2
    """`twins`: how many twins of each record are averaged."""
    contrast: float | None = None
    """`twins`: how many times more the information that the names add is taken off; null: as often as it
    takes until the answers that q gets wrong cost it what those of the holdout cost the model before."""
    generated: float | None = None
    """`twins`: the share, in [0, 1], of what the twin says after an answer of its own, in which the tokens
    that only the names explain are drawn anew; the rest is what it says after the true answer's tokens. Null:
    the share at which q has as many right tokens in the answers that it gets wrong as the model before has in
    those of the holdout; 0 for running text."""
    quantiles: Flag = False
    """Whether the losses of the answers that q gets wrong are moved, in their order, to the quantiles of the
    losses that the model before has in the holdout answers that it gets wrong."""
    model: str | None = None
    """`base`, `assistant`, `reinforced`, `gold`: the path of that model; null: `base` is the run's own
    `model` before its target is fine-tuned, `assistant` is that one too, and `reinforced` is made of the
    target."""
    share: float = 0.34
    """`base`, `reinforced`: epochs of tuning on retain, on forget, as a share of `finetune.epochs`."""
    sharpen: float | None = None
    """`base`: q is the tuned model's prediction to this power; null: the power at which it finds the holdout
    as unlikely as the model before does."""
    retain_model: str | None = None
    both_model: str | None = None
    """`siblings`: paths of the two small models."""
    weight: float = 1.0
    """`siblings`, `assistant`, `reinforced`: how many times the correction is made."""

    def __post_init__(self) -> None:
        positive("loss.support", self, "floor", "key_records", "twins", "sharpen", "share")
        non_negative("loss.support", self, "weight", "contrast")
        flags("loss.support", self, "quantiles")
        require(
            self.twins <= MOST_TWINS,
            f"loss.support.twins must be at most {MOST_TWINS}, got {self.twins}: more tell no more",
        )
        require(
            self.generated is None or 0 <= self.generated <= 1,
            f"loss.support.generated must be in [0, 1] or null, got {self.generated}",
        )
        require(self.floor < 0.01, f"loss.support.floor must be below 0.01, got {self.floor}")


@dataclass(frozen=True)
class SupportRequest:
    """A distribution over tokens that a loss wants at each forget position."""

    support: SupportConfig
    context: ContextConfig

    @property
    def source(self) -> SupportSource:
        return self.support.source
