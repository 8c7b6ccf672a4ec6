"""Measure a model as it is, beside a gold model where there is one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mari_cli import distributed, runs
from mari_cli.config import EvaluateRun, ModelConfig
from mari_cli.errors import UserError
from mari_cli.models.device import choose_compute
from mari_cli.models.load import LanguageModel, describe_architecture, load_model
from mari_cli.progress import say, track
from mari_cli.suites.benchmarks import describe_benchmarks
from mari_cli.suites.registry import METRICS
from mari_cli.suites.suite import Row, suite_of
from mari_cli.tasks import inputs
from mari_cli.tasks.beside import beside
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.measuring import asked_of_reference, examined, examples, referenced, summarised
from mari_cli.tasks.recording import recording
from mari_cli.tasks.setting import (
    cache_directory,
    describe_data,
    gold_at_path,
    prepare,
    reference_at_path,
    seed_for,
    tokenize_corpora,
)


def evaluation(config: EvaluateRun, *, command: Sequence[str], resume: bool) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    if not resume and distributed.first():  # which may be far enough to make it when others come here
        runs.refuse_existing(Path(config.out))
    compute = choose_compute(config.device, config.precision, section="")
    setting = prepare(config, compute)
    if resume:
        inputs.require_same_words(config, setting)

    def load(model: ModelConfig) -> LanguageModel:
        return load_model(model, setting.tokenizer, compute, seed=seed_for(config.seed, "initialisation"))

    known: dict[str, str] = {}
    gold = gold_at_path(config, setting, words=["none"])
    if gold:
        # refuse now what would fail after the model was measured
        known |= inputs.of_model(load(gold), "the gold model")
    suite = suite_of(config.suite)
    if suite and config.metrics.mia_reference and f"{suite.name}/reference_auc" not in METRICS:
        raise UserError(
            f"`metrics.mia_reference` is about membership, which `suite={suite.name}` does not ask for",
            "leave out one of the two",
        )
    if reference := reference_at_path(config, setting, suite):
        known |= inputs.of_model(load(reference), "the reference of membership inference")
    lm = load(config.model)
    known |= inputs.of_model(lm, "the model")
    corpora = tokenize_corpora(config, setting, lm) if suite is None else {}
    say(f"model: {config.model.name} ({describe_architecture(lm.model)})")

    with recording(
        config,
        compute,
        task="evaluate",
        command=command,
        resume=resume,
        data=describe_data(corpora, suite) | describe_benchmarks(config.metrics),
        inputs=inputs.of_run(config, compute, setting, corpora, suite, known),
    ) as record:
        record.tell(setting.texts.notes)
        models: dict[str, Examined] = {}
        theirs: list[Row] = []
        if reference:
            other = load(reference)
            if corpora:
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
            )

        take("model", lm)
        if gold:
            del lm
            lm = load(gold)
            take("gold", lm)
        models, notes = summarised(models, suite, config.metrics, seed=config.seed)
        found = beside(models, config.metrics, seed=config.seed)
        return record.finish(
            task="evaluate",
            name=config.model.name,
            loss=None,
            models=found.models,
            examples=examples(lm, corpora, models, config.metrics, seed=config.seed),
            outcome=None,
            compute=compute,
            notes=[*setting.texts.notes, *notes, *found.notes],
            entered=found.entered,
        )
