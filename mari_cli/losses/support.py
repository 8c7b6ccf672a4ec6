"""Who says, before step 1, what the retain data supports at each forget position, and how it is kept."""

from dataclasses import dataclass
from enum import StrEnum

from mari_cli.sections import Flag, flags, non_negative, positive, require


class SupportSource(StrEnum):
    neighbours = "neighbours"
    twins = "twins"
    siblings = "siblings"
    assistant = "assistant"
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


@dataclass(kw_only=True)
class SupportConfig:
    """Who says, for each forget position, what the retain data supports there (`loss.estimator=context`): a
    distribution q over tokens, made before step 1 (mari_cli/supports/)."""

    source: SupportSource = SupportSource.neighbours
    """`neighbours`: the model before, in like contexts of the retain corpus (`loss.context`). `twins`: the
    model before, asked with the names that only the forget data holds swapped for names of the retain data.
    `base`: the model before fine-tuning, tuned on the retain corpus for a part of a retraining. `siblings`:
    the model before, corrected by two small models, one trained on retain, one on both. `assistant`: the
    model before, less a model tuned on the forget data alone. `gold`: a model that never saw the forget data
    (an upper bound, to diagnose with)."""
    floor: float = 1e-6
    """No token that is kept by name gets a smaller probability than this."""
    keys: str | None = None
    """`twins`: a text file with one key string a line, as a person's name; null: the word sequences that at
    least `key_records` forget records hold and no retain record does."""
    key_records: int = 3
    twins: int = 16
    """`twins`: how many twins of each record are averaged."""
    contrast: float | None = None
    """`twins`: how many times more the information that the names add is taken off; null: as often as it
    takes until q finds the forget answers as unlikely as the model before finds the holdout's."""
    self_generated: Flag = False
    """`twins`: tokens of the answer that only the names explain are drawn anew from the twin, so that what
    follows does not lean on them. For answers of more than a few tokens."""
    model: str | None = None
    """`base`, `assistant`, `gold`: the path of that model; null: `base` is the run's own `model` before its
    target is fine-tuned, `assistant` is that one too."""
    share: float = 0.34
    """`base`: epochs of tuning on retain, as a share of `finetune.epochs`."""
    sharpen: float | None = None
    """`base`: q is the tuned model's prediction to this power; null: the power at which it finds the holdout
    as unlikely as the model before does."""
    retain_model: str | None = None
    both_model: str | None = None
    """`siblings`: paths of the two small models."""
    weight: float = 1.0
    """`siblings`, `assistant`: the power of the correction."""

    def __post_init__(self) -> None:
        flags("loss.support", self, "self_generated")
        positive("loss.support", self, "floor", "key_records", "twins", "sharpen", "share")
        non_negative("loss.support", self, "weight", "contrast")
        require(
            self.twins <= MOST_TWINS,
            f"loss.support.twins must be at most {MOST_TWINS}, got {self.twins}: more tell no more",
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
