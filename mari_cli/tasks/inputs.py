"""What determines a run, gathered while data and models are at hand: `begun` compares it on `--resume`."""

import json
from collections.abc import Mapping
from pathlib import Path

from mari_cli import distributed
from mari_cli.begun import TOKENS, Inputs, require_same, versions
from mari_cli.config import AuditRun, EvaluateRun, OwnSuite, RunConfig, UnlearnRun
from mari_cli.models.device import Compute
from mari_cli.models.fingerprint import code_hash, tokenizer_hash, weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.places import place
from mari_cli.storage.hashing import content_hash, path_hash
from mari_cli.storage.json_files import finite
from mari_cli.storage.run import Run
from mari_cli.suites.benchmarks import describe_benchmarks
from mari_cli.suites.examiner import items_hash
from mari_cli.suites.standard import Corpus
from mari_cli.suites.suite import Suite
from mari_cli.tasks.setting import Setting, require_context


def of_model(lm: LanguageModel, name: str) -> dict[str, str]:
    """What a model is that a run begins with, before adapters are put into it. Of several processes the first
    knows."""
    if not distributed.is_rank_zero():
        return {}
    config = json.loads(lm.model.config.to_json_string(use_diff=False)) | {"_name_or_path": None}
    generation = lm.model.generation_config
    return {
        f"the weights of {name}": weights_hash(lm.model),
        f"the configuration of {name}": content_hash(
            [type(lm.model).__name__, code_hash(lm.model), finite(config)]
        ),
        f"the generation settings of {name}": content_hash(generation and generation.to_json_string()),
    }


def of_model_beside(lm: LanguageModel, name: str, corpora: Mapping[str, Corpus]) -> dict[str, str]:
    """`of_model` of a model that is asked beside the run's. Raises UserError where its context is shorter
    than an item of ``corpora``."""
    require_context(lm.max_length, name, corpora)
    return of_model(lm, name)


def of_words(setting: Setting) -> dict[str, str]:
    """What the corpora are, and what reads them: all that is known before a model is loaded."""
    corpora = {
        f"the {role} corpus": content_hash([[r.key, r.fact, r.value] for r in records])
        for role in ("forget", "retain", "holdout")
        if (records := getattr(setting.texts, role)) is not None
    }
    if setting.texts.requests:
        corpora["the requests"] = content_hash(
            [[record.key for record in request.records] for request in setting.texts.requests]
        )
    return corpora | {
        "the tokenizer": tokenizer_hash(setting.tokenizer),
        "the chat template": content_hash(setting.tokenizer.chat_template),
    }


def require_same_words(config: RunConfig, setting: Setting) -> None:
    """Refuse to go on with a run of other words, before a model is loaded to which they may not fit."""
    if distributed.is_rank_zero():
        require_same(Run.unfinished(Path(config.out)), Inputs(of_words(setting)))


def of_run(
    config: RunConfig,
    compute: Compute,
    setting: Setting,
    corpora: Mapping[str, Corpus],
    suite: Suite | None,
    models: Mapping[str, str],
) -> Inputs:
    """All of it; ``models``: what `of_model` says of each."""
    tokens = {f"{TOKENS}the {role} corpus": items_hash(corpus.items) for role, corpus in corpora.items()}
    asked = {
        f"the questions of {name}": content_hash(finite(about))
        for name, about in describe_benchmarks(config.metrics).items()
    }
    if suite is not None:
        asked[f"the data of the suite {suite.name}"] = content_hash(finite(suite.describe()))
    if isinstance(config, UnlearnRun | EvaluateRun) and isinstance(config.suite, OwnSuite):
        paths = [path for path in (config.suite.code, config.suite.path) if path is not None]
        asked |= {f"what is in {path}": path_hash(place(path)) for path in paths}
    if isinstance(config, UnlearnRun | AuditRun) and config.audit and (path := config.audit.paraphrases):
        asked[f"what is in {path}"] = path_hash(place(path))
    here = {"device": compute.device.type, "precision": compute.precision}
    return Inputs(
        {**of_words(setting), **models, **asked, **tokens},
        {**versions(config), **{name: str(value) for name, value in here.items()}},
    )
