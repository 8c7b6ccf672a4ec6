"""`mari finetune`: teach a model the corpora (a target), or the retain corpus alone (a gold model)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mari_cli import distributed, runs
from mari_cli.config import Corpora, FinetuneRun, ModelConfig
from mari_cli.errors import counted
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel, base_of, check_saving, describe_architecture, load_model
from mari_cli.models.lora import describe_adapters, has_adapters, merge_adapters
from mari_cli.progress import say, track
from mari_cli.suites.benchmarks import describe_benchmarks
from mari_cli.tasks import inputs
from mari_cli.tasks.measuring import examined, examples, referenced
from mari_cli.tasks.recording import recording
from mari_cli.tasks.setting import (
    cache_directory,
    describe_data,
    prepare,
    reference_at_path,
    refuse_shards,
    require_disk,
    seed_for,
    tokenize_corpora,
)
from mari_cli.tasks.training import adapt, keep, skipped, take_up
from mari_cli.tasks.training import finetune as train
from mari_cli.train.optim import check_optimizer


def finetune(config: FinetuneRun, *, command: Sequence[str], resume: bool = False) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    if not resume and distributed.first():  # which may be far enough to make it when others come here
        runs.refuse_existing(Path(config.out))
    compute = choose_compute(config.train.device, config.train.precision, config.train.weights)
    check_optimizer(config.train.optimizer)
    refuse_shards(config.train, compute)
    setting = prepare(config, compute)
    if resume:
        inputs.require_same_words(config, setting)

    def load(model: ModelConfig) -> LanguageModel:
        return load_model(
            model,
            setting.tokenizer,
            compute,
            seed=seed_for(config.seed, "initialisation"),
            dropout=config.train.dropout,
            gradient_checkpointing=config.train.gradient_checkpointing,
            packing=config.train.packing,
        )

    lm = load(config.model)
    known = inputs.of_model(lm, "the model")
    if reference := reference_at_path(config, setting):
        # refuse now what would fail after the training
        known |= inputs.of_model(load(reference), "the reference of membership inference")
    corpora = tokenize_corpora(config, setting, lm)
    roles = ("forget", "retain") if config.corpora is Corpora.both else (config.corpora.value,)
    items = [item for role in roles for item in corpora[role].items]
    if not config.model.lora.merge:
        base_of(config.model, weights="", sha256="")  # refused where there is none
    description, base_hash = describe_architecture(lm.model), weights_hash(lm.model)
    check_saving(lm)
    adapt(config, lm)
    require_disk(config, lm)
    say(f"model: {config.model.name} ({description})")
    if has_adapters(lm.model):
        say(f"training {describe_adapters(lm.model)}")
    say(f"layout: {lm.layout}")

    with recording(
        config,
        compute,
        task="finetune",
        command=command,
        resume=resume,
        data=describe_data(corpora) | describe_benchmarks(config.metrics),
        inputs=inputs.of_run(config, compute, setting, corpora, None, known),
    ) as record:
        record.tell(setting.texts.notes)
        state_dir = record.run.path / runs.STATE
        notes = [*setting.texts.notes, *take_up(record.run, base_hash)]
        outcome = train(
            lm,
            items,
            config.train,
            weights=base_hash,
            seed=config.seed,
            state_dir=state_dir,
            log=record.log,
            track=track,
            description=f"fine-tuning on {' + '.join(roles)}",
        )
        say(f"{outcome.stopped_by or 'all epochs done'} after {counted(outcome.steps, 'step')}")
        if record.run.writes:
            there = record.run.path / "checkpoint"
            runs.remove(there)  # a run killed while it was measured has one already
            keep(lm, config, config.model, base_hash, there)
        merge_adapters(lm.model)
        if reference:
            corpora = referenced(load(reference), corpora, config, track)
        found = examined(
            lm,
            corpora,
            None,
            config.metrics,
            seed=config.seed,
            cache=cache_directory(config),
            track=track,
            name="model",
            afresh=True,
        )
        return record.finish(
            task="finetune",
            name=f"{config.model.name} on {' + '.join(roles)}",
            loss=None,
            models={"model": found},
            examples=examples(lm, corpora, {"model": found}, config.metrics, seed=config.seed),
            outcome=outcome,
            compute=compute,
            notes=[*notes, *skipped(outcome), *found.measured.notes],
        )
