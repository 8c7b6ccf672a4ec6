"""What a source knows before any model is asked, and the models that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.tokenize import PromptStyle
from mari_cli.losses.support import SupportConfig
from mari_cli.suites.standard import Corpus
from mari_cli.supports.twins import Names
from mari_cli.tasks.setting import Setting, model_beside


@dataclass(frozen=True)
class Preparing:
    """What a source is prepared from: the run and its texts."""

    config: UnlearnRun
    setting: Setting
    corpora: Mapping[str, Corpus]
    style: PromptStyle


@dataclass(frozen=True)
class Prepared:
    """What is known before any model is asked."""

    config: SupportConfig
    stored_tokens: int
    given: Mapping[str, ModelConfig] = field(default_factory=dict)
    """Models by what they are asked as."""
    names: Names | None = None
    """Of `twins`."""
    notes: tuple[str, ...] = ()
    """What the run is to say of it before anything is asked."""


def asked_of(config: UnlearnRun) -> SupportConfig:
    """How the loss wants its support made."""
    request = config.loss.support_request
    assert request is not None
    return request.support


def epochs_of_share(config: UnlearnRun) -> int:
    """Epochs for which `loss.support.share` tunes a model."""
    return max(1, round(asked_of(config).share * config.finetune.epochs))


def model_at(name: str, here: Preparing) -> ModelConfig:
    """The model that `loss.support` gives as ``name``. Raises UserError for one with another tokenizer."""
    key, path = f"loss.support.{name}", getattr(asked_of(here.config), name)
    instead = ", or take a source that needs no other model (`loss=mari_twins`)"
    return model_beside(path, f"the model at `{key}={path}`", here.config, here.setting, instead)


def model_before_fine_tuning(here: Preparing) -> ModelConfig:
    """The model that `base` and `assistant` are tuned from: the given one, or the run's own before its target
    is fine-tuned."""
    given = asked_of(here.config).model is not None
    return model_at("model", here) if given else here.config.model
