"""`mari unlearn`: from a model that knows something to one that does not, and a report of the difference."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.losses import objective as losses
from mari_cli.models.layers import require_trained
from mari_cli.models.lora import describe_adapters, has_adapters, merge_adapters
from mari_cli.options import RunOptions
from mari_cli.progress import say
from mari_cli.sections import display_name
from mari_cli.storage.hashing import content_hash
from mari_cli.storage.layout import STATE
from mari_cli.suites.benchmarks import check_without_generation
from mari_cli.tasks import supporting
from mari_cli.tasks.alternatives import alternative_items, write_alternatives
from mari_cli.tasks.assessment import Assessment
from mari_cli.tasks.closing_audit import ClosingAudit
from mari_cli.tasks.forgetting import context_layer, describe_outcome, draws_of, forgetting_job
from mari_cli.tasks.memory_budget import fit_to_memory
from mari_cli.tasks.negation import Negation
from mari_cli.tasks.preflight import Preflight, check_run, make_trainable
from mari_cli.tasks.run_record import record_run
from mari_cli.tasks.setting import cache_directory, dropout_seed, in_shards
from mari_cli.tasks.training import adapt, cut_metrics, fine_tuned_model, save_checkpoint
from mari_cli.train.gradient_filter import filter_with, mlp_matrices, read_components
from mari_cli.train.loop import fit


def unlearn(config: UnlearnRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    if config.in_turn:
        from mari_cli.tasks.continual import unlearn_in_turn  # which calls this function for each request

        return unlearn_in_turn(config, options)
    objective = losses.build(config.loss)
    flight, base = check_run(config, options)
    setting, corpora = flight.setting, flight.corpora
    if config.train.evaluate_benchmarks and in_shards(config.train):
        check_without_generation(config.metrics)
    alternatives = alternative_items(config, base, corpora["forget"])
    asked = config.loss.alternates_request
    if asked is not None and asked.path is not None:
        flight.models["the answers of `loss.path`"] = content_hash([item.labels for item in alternatives])
    config, prepared, support_notes = supporting.prepare_support(config, setting, corpora, base.style)
    context_layer(config, base)  # raises now where the model has no such layer
    if config.loss.gradient_filter is not None:
        mlp_matrices(base.model)  # raises now where the model has none
    if prepared:
        flight.models.update(supporting.load_given(prepared, corpora, flight.load))
    make_trainable(config, base)
    if objective.needs.states is not None:
        require_trained(base.model, objective.needs.states.layer)
    draws, validation = draws_of(config, corpora, alternatives, objective.needs)
    # a step that does not fit is refused, or made to fit, before target and gold are trained
    config = replace(
        config, train=fit_to_memory(base, config.train, objective, draws.items_at, config.train.steps)
    )
    flight = replace(flight, config=config, notes=[*flight.notes, *support_notes])
    closing = ClosingAudit.plan(flight, base)
    del base  # target and gold are loaded anew

    with record_run(flight) as record:
        target_from, gold_from = prepare_target(flight), prepare_gold(flight)
        record.set_beside(target=target_from, gold=gold_from)
        assessment = Assessment.begin(flight)
        corpora, notes = assessment.corpora, [*flight.notes]
        targets = None
        if prepared:  # while the target is not in memory yet
            targets, more = supporting.support(config, setting, corpora, prepared, target_from, flight.load)
            notes += more
        lm = flight.load(target_from)
        target_hash = assessment.take("target", lm).weights
        if asked is not None and asked.path is None:
            alternatives, more = write_alternatives(config, lm, corpora["forget"], weights=target_hash)
            notes += more
            draws, validation = draws_of(config, corpora, alternatives, objective.needs)
        adapt(config, lm)
        if has_adapters(lm.model):
            say(f"training {describe_adapters(lm.model)}")
        drawn = draws, validation
        job = forgetting_job(config, lm, corpora, drawn, objective, target_hash=target_hash, targets=targets)
        negation = None if config.loss.negation is None else Negation.of(lm.model, config.loss.negation)
        if negation:
            job = replace(job, evaluate=negation.around(job.evaluate))
        if (chosen := config.loss.gradient_filter) is not None:
            forget, batch = corpora["forget"].items, config.train.forget_batch
            found = read_components(lm, forget, objective, config.train, count=chosen.components, batch=batch)
            job = replace(job, filter_gradients=filter_with(chosen, found))
        notes += cut_metrics(record.run, target_hash)
        torch.manual_seed(dropout_seed(config.seed))
        outcome = fit(
            lm,
            job,
            config.train,
            weights=target_hash,
            state_dir=record.run.path / STATE,
            log=record.log,
            description=display_name(config.loss),
        )
        if negation:
            negation.apply(lm.model)
        notes += describe_outcome(outcome, draws.sizes, config.train)
        save_checkpoint(record.run, lm, config, target_from, target_hash)
        merge_adapters(lm.model)
        assessment.take("unlearned", lm, afresh=True)  # all runs that share a target compute this once
        if gold_from:
            del lm
            lm = flight.load(gold_from)
            assessment.take("gold", lm)
        audit = None
        if closing:
            audit, said = closing.run(record, target_from, gold_from)
            notes = [*said, *notes]
        return assessment.finish(
            record,
            lm,
            name=config.loss.title,
            loss=display_name(config.loss),
            notes=notes,
            outcome=outcome,
            audit=audit,
        )


# -- target and gold -----------------------------------------------------------------------------------------


def prepare_target(flight: Preflight[UnlearnRun]) -> ModelConfig:
    """The place of the model to unlearn, which is fine-tuned first where `target` asks for it."""
    if not flight.config.finetunes_target:
        return flight.config.model
    corpora = flight.corpora
    return fine_tune_anew(flight, [*corpora["forget"].items, *corpora["retain"].items], "target")


def prepare_gold(flight: Preflight[UnlearnRun]) -> ModelConfig | None:
    """The place of the gold model, which never saw the forget data; None where the run has none."""
    if flight.config.finetunes_gold:
        return fine_tune_anew(flight, flight.corpora["retain"].items, "gold")
    return flight.gold


def fine_tune_anew(flight: Preflight[UnlearnRun], items: Sequence[Item], role: str) -> ModelConfig:
    """The place of the run's model, fine-tuned on ``items``; ``role`` says what it is trained as."""
    config = flight.config
    return fine_tuned_model(
        config.model,
        flight.setting,
        items,
        config.finetune,
        seed=config.seed,
        cache=cache_directory(config),
        role=role,
    )
