"""Corpora, model, device and disk of a run, with the checks that every task makes before it writes."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mari_cli import distributed
from mari_cli.config import CorpusConfig, ModelConfig, OptimConfig, OptimizerName, Parallel, RunConfig
from mari_cli.data.corpora import Texts, load_corpora
from mari_cli.data.records import Record
from mari_cli.data.tokenize import check_prompts, count_tokens
from mari_cli.errors import UserError, counted
from mari_cli.models.device import Compute
from mari_cli.models.load import LanguageModel, load_tokenizer, prompt_style
from mari_cli.places import place
from mari_cli.storage import hashing
from mari_cli.suites.benchmarks import check_benchmarks
from mari_cli.suites.examiner import items_hash
from mari_cli.suites.registry import METRICS
from mari_cli.suites.standard import Corpus
from mari_cli.suites.suite import Suite
from mari_cli.tasks.early_checks import BESIDE, path_beside


def seed_for(seed: int, purpose: str) -> int:
    """The seed for one purpose, so that two purposes of a run never share random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "big")


def dropout_seed(seed: int) -> int:
    """A different seed in each process, or dropout would draw the same mask in all of them."""
    process = f" {distributed.rank()}" if distributed.rank() else ""
    return seed_for(seed, f"dropout{process}")


def in_shards(config: OptimConfig) -> bool:
    """Whether a training of the run cuts its weights into shards."""
    return config.parallel is Parallel.fsdp and distributed.size() > 1


def refuse_shards(config: OptimConfig, compute: Compute, *, section: str = "train.") -> None:
    """Refuse settings that do not work with weights in shards."""
    if not in_shards(config):
        return
    if compute.needs_loss_scaling:  # the scale follows from whole gradients, which no process has
        raise UserError(
            f"`{section}parallel=fsdp` does not train in float16",
            f"use `{section}parallel=ddp`, or `{section}precision=bfloat16`",
        )
    if config.optimizer is OptimizerName.adamw_8bit:
        raise UserError(
            f"`{section}optimizer=adamw_8bit` does not take weights in shards",
            f"use `{section}parallel=ddp`, or `{section}optimizer=adamw`",
        )


@dataclass(frozen=True)
class Setting:
    texts: Texts
    tokenizer: PreTrainedTokenizerBase
    compute: Compute


def read_setting(config: RunConfig, compute: Compute) -> Setting:
    """Read the corpora and choose the tokenizer. What needs no model is refused here, or was refused by
    early_checks.py."""
    texts = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
    tokenizer = load_tokenizer(config.model, words_of(texts))
    style = prompt_style(config.model, tokenizer)
    for role, records in (("forget", texts.forget), ("retain", texts.retain), ("holdout", texts.holdout)):
        check_prompts(records or [], tokenizer, style, corpus=role)
    check_benchmarks(config.metrics, tokenizer)
    return Setting(texts, tokenizer, compute)


def words_of(texts: Texts) -> Iterator[str]:
    """The texts that a new tokenizer is trained on: all corpora, the holdout too. Without the holdout, its
    names would have more tokens than the names of the forget data, and even gold would tell the two apart."""
    records = [*texts.forget, *texts.retain, *(texts.holdout or [])]
    return (part for record in records for part in (record.prompt, record.text) if part)


def tokenize_corpora(config: RunConfig, setting: Setting, lm: LanguageModel) -> dict[str, Corpus]:
    """By role: `forget`, `retain` and, where there is one, `holdout`."""
    roles: list[tuple[str, CorpusConfig, list[Record] | None]] = [
        ("forget", config.forget, setting.texts.forget),
        ("retain", config.retain, setting.texts.retain),
        ("holdout", config.holdout, setting.texts.holdout),
    ]
    return {
        role: Corpus(
            records, lm.tokenize(records, corpus=role, block_size=corpus.block_size, truncate=corpus.truncate)
        )
        for role, corpus, records in roles
        if records is not None
    }


def require_context(tokens: int, model: str, corpora: Mapping[str, Corpus]) -> None:
    """Refuse ``model``, whose context is ``tokens`` long, where an item of ``corpora`` is longer."""
    longest = max((len(item.input_ids) for corpus in corpora.values() for item in corpus.items), default=0)
    if longest > tokens:
        raise UserError(
            f"the context of {model} is {counted(tokens, 'token')}, and the longest item has {longest}",
            "give a model with the context of the run's, or cut the items: "
            f"`model.max_length={tokens} forget.truncate=true retain.truncate=true holdout.truncate=true`",
        )


def notes_on_reading(corpora: Mapping[str, Corpus], lm: LanguageModel, config: ModelConfig) -> list[str]:
    """Notes on pairs that the context of ``lm`` cuts, which lack the token that ends an answer, and on a
    setting of ``config`` for prompts that are written in another way."""
    notes, stops = [], {*lm.stop_token_ids}
    for role, corpus in corpora.items():
        full = [item for item in corpus.items if len(item.input_ids) == lm.max_length]
        pairs = [item for item in full if corpus.records[item.record].prompt is not None]
        if count := sum(item.input_ids[-1] not in stops for item in pairs):
            cut = f"cuts {counted(count, 'record')} of the {role} corpus"
            notes.append(f"the context of {counted(lm.max_length, 'token')} {cut}")
    key, need = "chat_template_date", "a chat template"
    if lm.style.chat:
        key, need = "prompt_template", "`model.chat_template=off`"
    if getattr(config, key) != getattr(ModelConfig, key):
        notes.append(f"nothing reads `model.{key}`: it needs {need}")
    return notes


def disk_of_run(model: torch.nn.Module, requests: int = 1) -> int:
    """The most bytes that the run directory holds at one time: a state (trained weights and two moments)
    written beside the last, and the kept weights; or at the end a state, the kept weights and the whole
    model. Of several ``requests`` each leaves its model."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return max(7 * trained, 4 * trained + weights) + (requests - 1) * weights


def named_beside(key: str, config: RunConfig, setting: Setting) -> ModelConfig | None:
    """The model that ``key`` of `BESIDE` names by its path; None where it names none. Refused where the model
    reads text in other tokens."""
    path = path_beside(key, config)
    return None if path is None else model_beside(path, f"the {BESIDE[key]} at `{path}`", config, setting)


def model_beside(path: str, what: str, config: RunConfig, setting: Setting, instead: str = "") -> ModelConfig:
    """The model at ``path``, called ``what``, to be asked beside the run's; refused where its own tokenizer
    is another. ``instead``: what else the hint offers."""
    model = config.model.at(path)
    if load_tokenizer(model, []).get_vocab() != setting.tokenizer.get_vocab():
        raise UserError(
            f"{what} has another tokenizer, so its predictions are of other tokens",
            f"give a model with the tokenizer of the run's model{instead}",
        )
    return model


def note_on_template(model: ModelConfig, what: str, setting: Setting) -> list[str]:
    """A note where ``model``, called ``what``, has another chat template than that in which it is asked."""
    if model.path is None or model.chat_template == "off":  # without a path its tokenizer is the run's
        return []
    own, asked = load_tokenizer(model, []).chat_template, setting.tokenizer.chat_template
    if own == asked:
        return []
    return [f"{what} has another chat template than the run's model, and is asked as that one is"]


def reference_at_path(config: RunConfig, setting: Setting, suite: Suite | None = None) -> ModelConfig | None:
    """The model that `metrics.mia_reference` names; refused where it reads text in other tokens, and where
    there is no holdout: none of ``suite``, or of the corpora where there is no suite."""
    path = config.metrics.mia_reference
    if path is None:
        return None
    if suite is not None and f"{suite.name}/reference_auc" not in METRICS:
        raise UserError(
            f"`metrics.mia_reference` is about membership, which `suite={suite.name}` does not ask for",
            "leave out one of the two",
        )
    if suite is None:
        held_out = setting.texts.holdout is not None
    else:
        held_out = any("holdout" in name for name in suite.describe())
    if not held_out:
        raise UserError(
            "`metrics.mia_reference` needs a holdout",
            "set `holdout`, of a suite `suite.holdout`, to data like the forget data that no model has seen",
        )
    return model_beside(path, f"the model at `metrics.mia_reference={path}`", config, setting)


def describe_data(corpora: Mapping[str, Corpus], suite: Suite | None = None) -> dict[str, Any]:
    """data.json: what went in, without a word of it."""
    asked = {} if suite is None else {suite.name: dict(suite.describe())}
    return asked | {
        role: {
            "records": len(corpus.records),
            "items": len(corpus.items),
            "tokens": count_tokens(corpus.items),
            "targets": sum(item.num_targets for item in corpus.items),
            "sha256": hashing.content_hash([record.key for record in corpus.records]),
            "items_sha256": items_hash(corpus.items),
        }
        for role, corpus in corpora.items()
    }


def device_info(compute: Compute) -> dict[str, Any]:
    """What environment.json says of the hardware."""
    cuda = compute.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": compute.precision,
        "precision_reason": compute.reason,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
    }


def cache_directory(config: RunConfig) -> Path:
    return place(config.cache)
