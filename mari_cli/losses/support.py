"""Settings of the distribution that the retain data supports at each forget position, made before step 1."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mari_cli.sections import Checked, Flag, flag, non_negative, positive, require


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
class ContextConfig(Checked):
    """Settings of the `context` estimator: it compares forget positions with the whole retain corpus."""

    section = "loss.context"
    layer: int | None = non_negative(None)
    """Hidden layer of the reference whose states are compared; null: the middle layer."""
    temperature: float = positive(0.1)
    """Temperature of the softmax over similarities: the smaller, the more the nearest position counts."""
    neighbours: int = positive(32)
    """Retain positions that are averaged for a forget position; their weights sum to 1."""
    stored_tokens: int = positive(64)
    """Most probable tokens of a distribution stored beside the label; all other tokens are one tail."""


MOST_TWINS = 10_000
PLAIN_GENERATED, PLAIN_CONTRAST = 0.4, 0.75
"""`loss.support.generated` and `.contrast` of `auto` without a holdout: the middle of the values that
calibration with a holdout found on two fictional worlds (0.2, 0.86; 0.3, 0.93) and on TOFU (0.7, 0.44)."""


@dataclass(kw_only=True)
class SupportConfig(Checked):
    """The source of what the retain data supports at each forget position (`loss.estimator=context`): a
    distribution q over tokens, made before step 1 (mari_cli/tasks/sources/)."""

    section = "loss.support"
    source: SupportSource = SupportSource.neighbours
    """`auto`: `twins` where the forget data has key strings, else `neighbours`; the run's log names the
    choice. `neighbours`: the model before step 1 in similar contexts of the retain corpus (`loss.context`).
    `twins`: the model before step 1, whose input has names of the retain data instead of names that only the
    forget data has. `base`: the model before fine-tuning, tuned on the retain corpus for a part of a
    retraining. `siblings`: the model before step 1, corrected by two small models, one trained on retain, one
    on both. `assistant`: the model before step 1, minus a model tuned on the forget data alone. `reinforced`:
    the model before step 1, minus what rises when it is tuned on the forget data again. `gold`: a model that
    never saw the forget data (an upper bound, for diagnosis)."""
    floor: float = positive(1e-12)
    """The least probability of a stored token."""
    keys: str | None = None
    """`twins`: a text file with one key string a line, as a person's name; null: the word sequences that at
    least `key_records` forget records and no retain records contain."""
    key_records: int = positive(3)
    twins: int = positive(2)
    """`twins`: the number of twins of each record that are averaged."""
    contrast: float | None = non_negative(None)
    """`twins`: the factor by which the information that the names add is subtracted; null: that at which q's
    loss on answers that q gets wrong equals that of the model before step 1 on the holdout's."""
    generated: float | None = None
    """`twins`: the share λ, in [0, 1], of the prediction after an answer of the twin's own, in which the
    tokens that only the names explain are drawn anew; the rest, 1 - λ, is the prediction after the true
    answer. Null: the share at which q has as many right tokens in the answers that it gets wrong as the model
    before step 1 has in those of the holdout; 0 for running text."""
    quantiles: Flag = flag(False)
    """Whether the losses of the answers that q gets wrong are moved, in their order, to the quantiles of the
    losses of the model before step 1 on the holdout answers that it gets wrong."""
    difficulty: Flag = flag(False)
    """`twins`, `siblings`, `assistant`, `reinforced`: whether the loss and the share of right tokens that the
    holdout sets are corrected, answer by answer, for how hard it is by the bigrams of the retain data."""
    model: str | None = None
    """`base`, `assistant`, `reinforced`, `gold`: the path of that model. Null: `base` and `assistant` are
    made of the run's own `model` before its target is fine-tuned, `reinforced` of the target."""
    share: float = positive(0.34)
    """`base`, `reinforced`: epochs of tuning, as a share of `finetune.epochs`."""
    sharpen: float | None = positive(None)
    """`base`: q is the tuned model's prediction to this power; null: the power at which q's loss on the
    holdout equals that of the model before step 1. `twins`: the power of q; null: 1, but where `contrast` is
    null too and no contrast leaves the wanted share of right tokens, a power takes the contrast's place."""
    retain_model: str | None = None
    both_model: str | None = None
    """`siblings`: paths of the two small models."""
    weight: float | None = non_negative(None)
    """`siblings`, `assistant`, `reinforced`: the factor of the correction; null: the factor at which q's loss
    on answers that q gets wrong equals that of the model before step 1 on the holdout's."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
class SourceSettings:
    """What a source asks of `loss.support`."""

    reads: frozenset[str]
    given: tuple[str, ...] = ()
    """Settings that must have a value: paths of models."""
    by_holdout: Mapping[str, float] = field(default_factory=dict)
    """Settings that the holdout chooses where they have no value, each with a value that would do."""
    tunes_own_model: bool = False
    """Whether the run's own model from before its fine-tuning is tuned where `model` has no value."""


_ADDED = {"weight": 1.0}
_TWINS = {"generated": PLAIN_GENERATED, "contrast": PLAIN_CONTRAST}
_SMALL = ("retain_model", "both_model")
_READ_BY_TWINS = frozenset({"keys", "key_records", "twins", "sharpen", "difficulty", *_TWINS})
_CORRECTED = frozenset({"weight", "difficulty"})
SETTINGS: dict[SupportSource, SourceSettings] = {
    SupportSource.neighbours: SourceSettings(frozenset()),
    SupportSource.auto: SourceSettings(_READ_BY_TWINS),
    SupportSource.twins: SourceSettings(_READ_BY_TWINS, by_holdout=_TWINS),
    SupportSource.base: SourceSettings(
        frozenset({"model", "share", "sharpen"}), by_holdout={"sharpen": 1.0}, tunes_own_model=True
    ),
    SupportSource.siblings: SourceSettings(_CORRECTED | {*_SMALL}, _SMALL, _ADDED),
    SupportSource.assistant: SourceSettings(_CORRECTED | {"model"}, (), _ADDED, tunes_own_model=True),
    SupportSource.reinforced: SourceSettings(_CORRECTED | {"model", "share"}, by_holdout=_ADDED),
    SupportSource.gold: SourceSettings(frozenset({"model"}), ("model",)),
}
"""By source. `floor` is read by all, `quantiles` by all but `neighbours`."""


def unread_by(config: SupportConfig) -> dict[str, str]:
    """By key of a loss what the source of ``config`` does not read, and what it needs."""
    source, found = config.source, {}
    for name in {name for settings in SETTINGS.values() for name in settings.reads} - SETTINGS[source].reads:
        readers = ", ".join(f"`{other}`" for other, settings in SETTINGS.items() if name in settings.reads)
        found[f"support.{name}"] = f"another `loss.support.source` ({readers})"
    chosen = SETTINGS[SupportSource.twins if source is SupportSource.auto else source].by_holdout
    given = all(getattr(config, name) is not None for name in chosen)
    if given and not config.quantiles and "difficulty" in SETTINGS[source].reads:
        nulls = ", ".join(f"`loss.support.{name}=null`" for name in chosen)
        found["support.difficulty"] = f"{nulls} or `loss.support.quantiles=true`"
    if source is SupportSource.neighbours:
        found["support.quantiles"] = "another `loss.support.source`"
    elif source is not SupportSource.auto:
        of_neighbours = (f"context.{name}" for name in ("layer", "temperature", "neighbours"))
        found |= dict.fromkeys(of_neighbours, "`loss.support.source=neighbours`")
    return found


@dataclass(frozen=True)
class SupportRequest:
    """A request of a loss for a distribution over tokens at each forget position."""

    support: SupportConfig
    context: ContextConfig

    @property
    def source(self) -> SupportSource:
        return self.support.source
