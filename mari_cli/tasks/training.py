"""Fine-tuning as a job for the loop, and its results kept by what determines them."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mari_cli import distributed
from mari_cli.config import FinetuneConfig, FinetuneRun, ModelConfig, UnlearnRun
from mari_cli.data.batches import epoch_batches
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, counted
from mari_cli.lm_head import check_parity
from mari_cli.losses.objective import FINE_TUNING
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import cache_key, described, weights_hash
from mari_cli.models.load import LanguageModel, base_of, load_model
from mari_cli.models.lora import add_adapters
from mari_cli.progress import say, silent
from mari_cli.storage import atomic, json_cache
from mari_cli.storage.cache_entry import find_or_make
from mari_cli.storage.hashing import directory_hash, key_hash
from mari_cli.storage.layout import METRICS, STATE
from mari_cli.storage.run import Run
from mari_cli.suites.examiner import items_hash
from mari_cli.suites.scores import score
from mari_cli.tasks.memory_budget import fit_to_memory
from mari_cli.tasks.setting import Setting, dropout_seed, seed_for
from mari_cli.train import state
from mari_cli.train.journal import RecordWriter
from mari_cli.train.loop import Job, Outcome, fit
from mari_cli.train.step import Group
from mari_cli.train.stop import Verdict

RECIPE = 3
"""Part of every cache key: raise it when a change here or in train/ changes what fine-tuning results in."""
CHECKPOINT, SEAL = "checkpoint", "checkpoint.json"
"""Of a model that is kept: the directory, and the hash of all in it."""
WATCHED_ITEMS = 256
"""Items on which the training accuracy is watched."""


def adapt(config: FinetuneRun | UnlearnRun, lm: LanguageModel) -> None:
    """Put the run's adapters into ``lm``, where it has any."""
    if config.model.lora.rank is not None:
        add_adapters(lm.model, config.model.lora, seed=seed_for(config.seed, "adapters"))
        check_parity(lm.model)


def save_checkpoint(
    run: Run, lm: LanguageModel, config: FinetuneRun | UnlearnRun, base: ModelConfig, base_hash: str
) -> None:
    """Save what was trained as the checkpoint of ``run``: a plain model, or adapters of ``base``, whose
    weights' hash is ``base_hash``."""
    if not run.writes:
        return
    path = run.path / CHECKPOINT
    atomic.remove(path)  # a run killed while it was measured has one already
    if config.model.lora.merge:
        lm.save(path)
    else:
        lm.save_adapter(path, base_of(base, weights=config.train.weights.value, sha256=base_hash))


def cut_metrics(run: Run, weights: str) -> list[str]:
    """Cut the metrics of ``run``, which begins with ``weights``, to the step that its training goes on from;
    returns a note where they lack some of the steps before."""
    if not run.writes:
        return []
    path = state.find(run.path / STATE, weights)
    lost = run.truncate_metrics(state.load_progress(path).step if path else -1)
    if not lost:
        return []
    return [f"`{METRICS}` was damaged while the run was interrupted, and lacks {lost} of its steps"]


def describe_skipped(outcome: Outcome) -> list[str]:
    """A note where steps were skipped."""
    if not outcome.skipped_steps:
        return []
    return [
        f"{outcome.skipped_steps} of {outcome.steps} steps were skipped: their gradients were not finite in "
        "float16 at the scale of the loss"
    ]


def fine_tune(
    lm: LanguageModel,
    items: Sequence[Item],
    config: FinetuneConfig,
    *,
    weights: str,
    seed: int,
    state_dir: Path,
    log: RecordWriter,
    description: str,
    section: str = "train.",
) -> Outcome:
    """Train ``lm`` in place on ``items``; ``weights``: the hash of those that it comes with.

    Ends when `until_accuracy` of the training tokens are right, or the epochs are done.
    """
    steps_per_epoch = -(-len(items) // config.batch_size)
    lengths = [len(item.input_ids) for item in items]
    order_seed = seed_for(seed, "fine-tuning order")

    @lru_cache(maxsize=2)
    def batches(epoch: int) -> list[list[int]]:
        return epoch_batches(lengths, config.batch_size, epoch, seed=order_seed)

    def items_at(step: int) -> Group:
        epoch, batch = divmod(step, steps_per_epoch)
        return {"retain": [items[i] for i in batches(epoch)[batch]]}

    watched = [items[i] for i in range(0, len(items), max(1, len(items) // WATCHED_ITEMS))]

    def evaluate(lm: LanguageModel, step: int) -> dict[str, float]:
        scored = score(lm, watched, batch_size=32, min_k=0.4, track=silent, description="")
        right, tokens = sum(scored.column("tokens_right")), sum(scored.column("tokens"))
        nll = sum(scored.column("answer_nll")) / len(watched)
        return {"train/token_accuracy": right / tokens, "train/answer_nll": nll}

    def judge(history: list[dict[str, Any]]) -> Verdict:
        latest = history[-1]
        accuracy, wanted = latest["train/token_accuracy"], config.until_accuracy
        done = wanted is not None and accuracy >= wanted
        return Verdict(latest["step"], f"token accuracy {accuracy:.4f} reached {wanted}" if done else None)

    steps = config.epochs * steps_per_epoch
    config = fit_to_memory(lm, config, FINE_TUNING, items_at, steps)
    torch.manual_seed(dropout_seed(seed))
    job = Job(
        steps=steps,
        items_at=items_at,
        objective=FINE_TUNING,
        reference_at=lambda step: None,
        evaluate=evaluate,
        judge=judge,
        evaluate_every=config.evaluate_every * steps_per_epoch,
        section=section,
    )
    return fit(lm, job, config, weights=weights, state_dir=state_dir, log=log, description=description)


def fine_tuned_model(
    base: ModelConfig,
    setting: Setting,
    items: Sequence[Item],
    config: FinetuneConfig,
    *,
    seed: int,
    cache: Path,
    role: str,
) -> ModelConfig:
    """``base`` fine-tuned on ``items``: from the cache if trained before, else trained now.

    The key is the content of all that determines the result, the starting weights and every token included. A
    training that died goes on from its last state; two runs that want the same model wait for one training.
    """
    lm = load_model(
        base,
        setting.tokenizer,
        choose_compute(config.device, config.precision, config.weights, section="finetune."),
        seed=seed_for(seed, "initialisation"),
        dropout=config.dropout,
        gradient_checkpointing=config.gradient_checkpointing,
        packing=config.packing,
    )
    weights = weights_hash(lm.model)
    asked = {
        "items": items_hash(items),
        # the same weights up to rounding, but which process drew which mask stays in them
        "processes": distributed.size() if config.dropout else 1,
        "config": asdict(config),
        "seed": seed,
    }
    key = key_hash(cache_key("models", RECIPE, described(lm, weights), asked))
    directory = cache / "models" / key

    def make(path: Path) -> None:
        """The checkpoint, with its seal and its log beside it."""
        say(
            f"{role}: fine-tuning on {counted(len(items), 'item')}, at most {counted(config.epochs, 'epoch')}"
        )
        with atomic.retold_disk_errors(directory), (directory / METRICS).open("a") as metrics:
            outcome = fine_tune(
                lm,
                items,
                config,
                weights=weights,
                seed=seed,
                state_dir=directory / STATE,
                description=role,
                section="finetune.",
                log=(lambda record: print(json.dumps(record), file=metrics, flush=True)),
            )
        if outcome.failed:
            raise UserError(
                f"{role}: fine-tuning was stopped. {outcome.stopped_by}",
                f"lower `finetune.lr` (now {config.lr:g})",
            )
        if distributed.is_rank_zero():
            lm.save(path)
        # the first one's counts, and the others need not read it
        json_cache.write(directory / SEAL, directory_hash(path) if distributed.is_rank_zero() else None)
        if distributed.is_rank_zero():
            shutil.rmtree(directory / STATE)
        say(f"{role}: {outcome.stopped_by or 'all epochs done'} after {counted(outcome.steps, 'step')}")

    find_or_make(
        directory / CHECKPOINT,
        name=role,
        is_whole=lambda there: json_cache.read_here(there.with_name(SEAL)) == directory_hash(there),
        make=make,
    )
    return replace(base, path=str(directory), architecture=None, revision=None)
