"""The checks with which `unlearn`, `finetune` and `evaluate` begin, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mari_cli.config import (
    AuditRun,
    EvaluateRun,
    FinetuneRun,
    ModelConfig,
    OptimConfig,
    RunConfig,
    UnlearnRun,
)
from mari_cli.models.checks import check_saving
from mari_cli.models.device import Compute, choose_compute
from mari_cli.models.load import LanguageModel, base_of, load_model
from mari_cli.options import RunOptions
from mari_cli.storage.room_on_disk import check_disk
from mari_cli.suites.standard import Corpus
from mari_cli.suites.suite import Suite, suite_of
from mari_cli.tasks import inputs
from mari_cli.tasks.early_checks import check_names
from mari_cli.tasks.setting import (
    Setting,
    disk_of_run,
    named_beside,
    note_on_template,
    notes_on_reading,
    read_setting,
    reference_at_path,
    refuse_shards,
    require_context,
    seed_for,
    tokenize_corpora,
)
from mari_cli.tasks.training import adapt
from mari_cli.train.optim import check_optimizer

R = TypeVar("R", bound=RunConfig)


@dataclass(frozen=True)
class Preflight(Generic[R]):
    """A run whose inputs are read and checked. Nothing of the run is written yet."""

    config: R
    options: RunOptions
    setting: Setting
    suite: Suite | None
    gold: ModelConfig | None
    """The gold model that `gold` names by its path."""
    before: ModelConfig | None
    """The model before unlearning that `before` names by its path."""
    reference: ModelConfig | None
    """The reference of membership inference."""
    corpora: dict[str, Corpus]
    """By role, as the run's model reads them; empty where a suite is asked in their place."""
    models: dict[str, str]
    """What `inputs.of_model` says of each model that the run begins with."""
    description: Sequence[str]
    """Lines about the run's model for the person watching."""
    notes: Sequence[str]
    """Notes for the report, on the data and on what was chosen for the run."""

    def load(self, model: ModelConfig) -> LanguageModel:
        """``model`` as this run trains it, or as it measures it where it trains none."""
        return load_for(self.config, self.setting, model)


def check_run(config: R, options: RunOptions) -> tuple[Preflight[R], LanguageModel]:
    """Read what ``config`` names, and load the model that it names. Raises UserError for what cannot be used.

    Models beside it are loaded here and dropped, so that a model that cannot be loaded ends the run now and
    not after hours."""
    check_names(config, options)
    setting = read_setting(config, compute_of(config))
    if options.resume:
        inputs.require_same_words(config, setting)
    suite = suite_of(config.suite) if isinstance(config, UnlearnRun | EvaluateRun) else None
    gold, before = (named_beside(key, config, setting) for key in ("gold", "before"))
    instead = suite if isinstance(config, EvaluateRun) else None
    reference = reference_at_path(config, setting, instead)
    known: dict[str, str] = {}
    contexts: dict[str, int] = {}
    notes = [*setting.texts.notes]
    for model, name in (
        (before, "the model before"),
        (gold, "the gold model"),
        (reference, "the reference of membership inference"),
    ):
        if model:
            beside = load_for(config, setting, model)
            known |= inputs.of_model(beside, name)
            contexts[name] = beside.max_length
            notes += note_on_template(model, name, setting)
            del beside
    lm = load_for(config, setting, config.model)
    known |= inputs.of_model(lm, "the model")
    corpora = {} if instead else tokenize_corpora(config, setting, lm)
    for name, tokens in contexts.items():
        require_context(tokens, name, corpora)
    parameters = sum(p.numel() for p in lm.model.parameters()) / 1e6
    kind = lm.model.config.model_type
    description = [f"model: {config.model.name} ({kind}, {parameters:.1f} M parameters)"]
    if isinstance(config, UnlearnRun | FinetuneRun):
        description.append(f"layout: {lm.layout}")
    notes += notes_on_reading(corpora, lm, config.model)
    return Preflight(
        config, options, setting, suite, gold, before, reference, corpora, known, description, notes
    ), lm


def load_for(config: RunConfig, setting: Setting, model: ModelConfig) -> LanguageModel:
    """``model`` as a run of ``config`` trains it, or measures it where it trains none."""
    of_training: dict[str, Any] = {}
    if isinstance(config, UnlearnRun | FinetuneRun):
        names = ("dropout", "gradient_checkpointing", "packing")
        of_training = {name: getattr(config.train, name) for name in names}
    seed = seed_for(config.seed, "initialisation")
    return load_model(model, setting.tokenizer, setting.compute, seed=seed, **of_training)


def compute_of(config: RunConfig) -> Compute:
    """The device and the precision of a run; refused where one of its trainings does not go with them."""
    if isinstance(config, EvaluateRun | AuditRun):
        return choose_compute(config.device, config.precision, section="")
    assert isinstance(config, UnlearnRun | FinetuneRun)
    compute = _compute_of_training(config.train, "train.")
    if isinstance(config, UnlearnRun):
        _compute_of_training(config.finetune, "finetune.")
    return compute


def _compute_of_training(training: OptimConfig, section: str) -> Compute:
    compute = choose_compute(training.device, training.precision, training.weights, section=section)
    check_optimizer(training.optimizer, section=section)
    refuse_shards(training, compute, section=section)
    return compute


def make_trainable(config: UnlearnRun | FinetuneRun, lm: LanguageModel) -> None:
    """Put the run's adapters into ``lm``. Raises UserError where the disk has no room for what is trained, or
    where nobody could load what is saved."""
    own_base = isinstance(config, FinetuneRun) or not config.finetunes_target
    if own_base and not config.model.lora.merge:
        base_of(config.model, weights="", sha256="")  # raises where nobody could load the base
    check_saving(lm)
    adapt(config, lm)
    check_disk(Path(config.out), disk_of_run(lm.model))
