"""`mari unlearn`: from a model that knows something to one that does not, and a report of the difference."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mari_cli import distributed, runs
from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.losses import objective as losses
from mari_cli.models.device import choose_compute
from mari_cli.models.load import LanguageModel, base_of, check_saving, describe_architecture, load_model
from mari_cli.models.lora import describe_adapters, has_adapters, merge_adapters
from mari_cli.models.trunk import choose_layer
from mari_cli.progress import say, track
from mari_cli.sections import titled
from mari_cli.suites.benchmarks import check_without_generation, describe_benchmarks
from mari_cli.suites.standard import Corpus
from mari_cli.suites.suite import Row, suite_of
from mari_cli.tasks import inputs, supporting
from mari_cli.tasks.beside import beside
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.fitting import settled
from mari_cli.tasks.forgetting import alternative_items, context_layer, draws_of, forget
from mari_cli.tasks.measuring import asked_of_reference, examined, examples, referenced, summarised
from mari_cli.tasks.recording import recording
from mari_cli.tasks.setting import (
    Setting,
    cache_directory,
    describe_data,
    finetunes_target,
    gold_at_path,
    in_shards,
    prepare,
    reference_at_path,
    refuse_shards,
    require_disk,
    seed_for,
    tokenize_corpora,
)
from mari_cli.tasks.training import adapt, finetuned, keep
from mari_cli.train.optim import check_optimizer

GOLD_WORDS = ("finetune", "none", "auto")
"""What `gold` may be besides a path."""


def unlearn(config: UnlearnRun, *, command: Sequence[str], resume: bool = False) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    if not resume and distributed.first():  # which may be far enough to make it when others come here
        runs.refuse_existing(Path(config.out))
    compute = choose_compute(config.train.device, config.train.precision, config.train.weights)
    check_optimizer(config.train.optimizer)
    refuse_shards(config.train, compute)
    # refuse now what would fail in an hour
    later = choose_compute(
        config.finetune.device, config.finetune.precision, config.finetune.weights, section="finetune."
    )
    check_optimizer(config.finetune.optimizer, section="finetune.")
    refuse_shards(config.finetune, later, section="finetune.")
    objective = losses.build(config.loss)
    needs = objective.needs
    setting = prepare(config, compute)
    if resume:
        inputs.require_same_words(config, setting)
    if config.train.evaluate_benchmarks and in_shards(config.train):
        check_without_generation(config.metrics)
    suite = suite_of(config.suite)
    base = load(config.model, config, setting)
    corpora = tokenize_corpora(config, setting, base)
    alternatives = alternative_items(config, base, corpora["forget"])
    config, chosen = supporting.choose(config, setting, corpora, base.style)
    layer = context_layer(config, base)
    if needs.states is not None:
        choose_layer(base.model, needs.states.layer)  # refused now where there is no such layer
    prepared = supporting.prepare(config, setting, corpora, base.style)
    description, layout = describe_architecture(base.model), base.layout
    if not (config.model.lora.merge or finetunes_target(config)):
        base_of(config.model, weights="", sha256="")  # refused where there is none
    check_saving(base)
    known = inputs.of_model(base, "the model")
    adapt(config, base)
    require_disk(config, base)
    draws, _ = draws_of(config, corpora, alternatives, needs)
    # what does not fit is refused, or made to fit, before target and gold are trained
    config = replace(config, train=settled(base, config.train, objective, draws.items_at, config.train.steps))
    del base  # target and gold start from it anew
    if gold := gold_at_path(config, setting, words=GOLD_WORDS):
        # refuse now what would fail after the unlearning
        known |= inputs.of_model(load(gold, config, setting), "the gold model")
    if reference := reference_at_path(config, setting):
        known |= inputs.of_model(load(reference, config, setting), "the reference of membership inference")
    loading = partial(load, config=config, setting=setting)
    if prepared:
        known |= supporting.load_given(prepared, loading)
    say(f"model: {config.model.name} ({description})")
    say(f"layout: {layout}")

    with recording(
        config,
        compute,
        task="unlearn",
        command=command,
        resume=resume,
        data=describe_data(corpora, suite) | describe_benchmarks(config.metrics),
        inputs=inputs.of_run(config, compute, setting, corpora, suite, known),
    ) as record:
        notes = [*setting.texts.notes, *chosen]
        record.tell(notes)
        target_from = prepare_target(config, setting, corpora)
        gold_from = prepare_gold(config, setting, corpora)
        models: dict[str, Examined] = {}
        theirs: list[Row] = []
        if reference:
            other = load(reference, config, setting)
            corpora = referenced(other, corpora, config, track)
            theirs = asked_of_reference(other, suite, config, track)
            del other

        def take(role: str, lm: LanguageModel) -> None:
            models[role] = examined(
                lm,
                corpora,
                suite,
                config.metrics,
                seed=config.seed,
                cache=cache_directory(config),
                track=track,
                name=role,
                reference=theirs,
                afresh=role == "unlearned",  # the models it is compared with: once for all runs
            )

        targets = None
        if prepared:  # before the target is loaded to stay
            targets, more = supporting.support(config, setting, corpora, prepared, target_from, loading)
            notes += more
        lm = load(target_from, config, setting)
        take("target", lm)
        adapt(config, lm)
        if has_adapters(lm.model):
            say(f"training {describe_adapters(lm.model)}")
        outcome, more = forget(
            config,
            lm,
            corpora,
            alternatives,
            objective,
            layer,
            record,
            target_hash=models["target"].weights,
            targets=targets,
        )
        notes += more
        if record.run.writes:
            there = record.run.path / "checkpoint"
            runs.remove(there)  # a run killed while it was measured has one already
            keep(lm, config, target_from, models["target"].weights, there)
        merge_adapters(lm.model)
        take("unlearned", lm)
        if gold_from:
            del lm
            lm = load(gold_from, config, setting)
            take("gold", lm)

        models, missing = summarised(models, suite, config.metrics, seed=config.seed)
        found = beside(models, config.metrics, seed=config.seed)
        return record.finish(
            task="unlearn",
            name=config.loss.title,
            loss=titled(config.loss),
            models=found.models,
            examples=examples(lm, corpora, models, config.metrics, seed=config.seed),
            outcome=outcome,
            compute=compute,
            notes=[*notes, *missing, *found.notes],
            entered=found.entered,
        )


# -- target and gold -----------------------------------------------------------------------------------------


def prepare_target(config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus]) -> ModelConfig:
    """Where to load the model to unlearn from; fine-tuned first where it is to be."""
    if not finetunes_target(config):
        return config.model
    return _finetuned(config, setting, [*corpora["forget"].items, *corpora["retain"].items], "target")


def prepare_gold(config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus]) -> ModelConfig | None:
    """Where to load the model from that never saw the forget data, if there is to be one."""
    choice = config.gold
    if choice == "auto":
        choice = "finetune" if finetunes_target(config) else "none"
    if choice == "none":
        return None
    if choice == "finetune":
        return _finetuned(config, setting, corpora["retain"].items, "gold")
    return gold_at_path(config, setting, words=GOLD_WORDS)


def load(model: ModelConfig, config: UnlearnRun, setting: Setting) -> LanguageModel:
    """A model in the state in which unlearning trains it."""
    return load_model(
        model,
        setting.tokenizer,
        setting.compute,
        seed=seed_for(config.seed, "initialisation"),
        dropout=config.train.dropout,
        gradient_checkpointing=config.train.gradient_checkpointing,
        packing=config.train.packing,
    )


def _finetuned(config: UnlearnRun, setting: Setting, items: Sequence[Item], role: str) -> ModelConfig:
    directory = finetuned(
        config.model,
        replace(
            setting,
            compute=choose_compute(
                config.finetune.device,
                config.finetune.precision,
                config.finetune.weights,
                section="finetune.",
            ),
        ),
        items,
        config.finetune,
        seed=config.seed,
        cache=cache_directory(config),
        track=track,
        role=role,
    )
    return replace(config.model, path=str(directory), architecture=None, revision=None)
