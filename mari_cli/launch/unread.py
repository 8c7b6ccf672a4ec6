"""Settings that a user gives and that nothing reads as the others are set: the run would not be the one that
was asked for. What the settings of a loss need stands beside them (`LossConfig.unread`), all else here."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from mari_cli.config import AuditRun, EvaluateRun, FileCorpus, FinetuneRun, ForgetFiles, RunConfig, UnlearnRun
from mari_cli.errors import UserError
from mari_cli.launch.experiment import CORPORA, Experiment
from mari_cli.launch.values import leaves
from mari_cli.launch.yaml_files import root_of
from mari_cli.places import is_there, place

OF_BENCHMARKS = ("limit", "root", "chat_template")


def refuse_unread(config: RunConfig, given: Sequence[str]) -> None:
    """Raise UserError for the first key of ``given`` that nothing reads. Its default, 0, false and null are
    harmless."""
    needs = unread(config)
    for key in given:
        *path, name = key.split(".")
        section: Any = config
        for part in path:
            section = getattr(section, part, None)
        value = getattr(section, name, None)
        need = need_of(key, needs) if value and not is_dataclass(value) else None
        if need and value != getattr(type(section), name, None):
            hint = "leave it out, or set what it needs"
            raise UserError(f"nothing would read `{key}`: it needs {need}", hint)


def keys_given(experiment: Experiment) -> list[str]:
    """The keys that the command line sets, and those of a file in sections that the command line leaves as
    they are there. A file's keys do not count where the command line chooses anew what is run, as by
    `target=as_is`: it was written for another choice, too."""
    typed = [override.partition("=")[0].lstrip("+~") for override in experiment.overrides]
    if experiment.file is None or any("." not in key for key in typed):
        return typed
    sections = {key.partition(".")[0] for key in typed}
    root = root_of(experiment.file)
    found = leaves(root if isinstance(root, dict) else {}, built=True)
    written = [key.removeprefix("hydra.sweeper.params.").partition("[")[0] for key, _ in found]
    return [*typed, *(key for key in written if key.partition(".")[0] not in sections)]


def need_of(key: str, needs: Mapping[str, str]) -> str | None:
    """What ``key`` needs; None where it is read."""
    return next((need for unread, need in needs.items() if f"{key}.".startswith(f"{unread}.")), None)


def unread(config: RunConfig) -> dict[str, str]:
    """Every key that nothing reads, and what it needs. The key of a section stands for all keys in it."""
    found: dict[str, str] = {}

    def needs(need: str, *keys: str, unless: bool) -> None:
        found.update({} if unless else dict.fromkeys(keys, need))

    suite = config.suite.kind if isinstance(config, UnlearnRun | EvaluateRun) else "corpora"
    held_out = config.holdout.is_given
    needs("`holdout.path`", "holdout", unless=held_out)
    needs("a holdout", "metrics.gradnorm", "metrics.min_k", unless=held_out or suite != "corpora")
    for name in CORPORA:
        corpus = getattr(config, name)
        if isinstance(corpus, FileCorpus) and corpus.path and is_there(corpus.path):
            plain = place(corpus.path).is_dir() or corpus.path.lower().endswith(".txt")
            needs("a data set of the hub", f"{name}.subset", f"{name}.split", unless=False)
            needs("plain text (.txt)", f"{name}.passage_characters", unless=plain)
        if isinstance(corpus, ForgetFiles):
            needs("`forget.fraction`", "forget.fraction_seed", unless=corpus.fraction is not None)
    own = config.model.tokenizer == "train"
    needs("`model.tokenizer=train`", "model.tokenizer_vocab_size", unless=own)
    drawn = config.metrics.max_items is not None or (suite == "corpora" and config.metrics.generate)
    needs("`metrics.max_items`", "metrics.seeds", unless=drawn)
    asked = bool(config.metrics.benchmarks)
    every = ["metrics.fewshot", *(f"metrics.benchmark_{name}" for name in OF_BENCHMARKS)]
    needs("`metrics.benchmarks`", "train.evaluate_benchmarks", *every, unless=asked)
    if isinstance(config, AuditRun):
        needs("`mari evaluate`, which asks it", "metrics.benchmarks", *every, unless=False)
    if isinstance(config, FinetuneRun | UnlearnRun):
        needs("`train.dropout=true`", "model.lora.dropout", unless=config.train.dropout)
    if isinstance(config, AuditRun | UnlearnRun):
        needs("an audit, as `audit=quick`", "second_gold", unless=config.audit is not None)
        prompted = config.audit is None or "prompts" in config.audit.attacks
        needs("the attack `prompts` in `audit.attacks`", "audit.paraphrases", unless=prompted)
    if isinstance(config, EvaluateRun):
        needs("`suite=corpora`", *CORPORA, unless=suite == "corpora")
        logs = config.from_log is not None
        needs("a model to measure, not a log", "model.path", *CORPORA, unless=not logs)
    if isinstance(config, UnlearnRun):
        found |= {f"loss.{key}": need for key, need in config.loss.unread().items()}
        tunes = config.finetunes_target or config.finetunes_gold or config.loss.support_request is not None
        needs("`target=finetune` or `gold=finetune`", "finetune", unless=tunes)
    return found
