"""The training loop of fine-tuning and of unlearning, read from top to bottom."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from mari_cli import distributed
from mari_cli.config import OptimConfig, Parallel, Weights
from mari_cli.errors import UserError, counted
from mari_cli.losses import fused
from mari_cli.losses.objective import Objective
from mari_cli.models.load import LanguageModel
from mari_cli.progress import track
from mari_cli.train import state
from mari_cli.train.forecast import Settings
from mari_cli.train.journal import Journal, Launched, RecordWriter, token_seconds
from mari_cli.train.optim import Optimizer, learning_rate
from mari_cli.train.sharding import sharded
from mari_cli.train.step import Group, Reference, backward, chunk_for
from mari_cli.train.stop import Verdict
from mari_cli.transfer import Fetched, sent


@dataclass(frozen=True)
class Job:
    """All that the loop needs to train. Steps are optimiser steps, counted from 0."""

    steps: int
    items_at: Callable[[int], Group]
    """The items of a step by role. They depend on the step alone, so that a resumed run sees the same."""
    objective: Objective
    reference_at: Callable[[int], Reference | None]
    """The reference for a step's items: what the model before step 0 predicts; None where no loss asks."""
    evaluate: Callable[[LanguageModel, int], dict[str, float]]
    """Measure the model after the given number of steps. All processes call it at once."""
    judge: Callable[[list[dict[str, Any]]], Verdict]
    """Decides from the evaluations so far, of which the first is of step 0."""
    evaluate_every: int
    section: str = "train."
    """The section of the configuration that hints name."""
    filter_gradients: Callable[[Mapping[str, Parameter]], None] = lambda weights: None
    """Changes the gradients of a step, by the names of their weights, before they are clipped."""


@dataclass(frozen=True)
class Outcome:
    steps: int
    kept_step: int
    stopped_by: str | None
    tokens: int
    way: dict[str, Any]
    """How the steps were taken: `layout`, `pooling_scope` and `kernels`, and of the configuration, as it was
    settled to fit the memory, `micro_batch`, `chunk`, `keep_logits` and `gradient_checkpointing`."""
    skipped_steps: int = 0
    """Steps whose update was not made, because their gradient is not finite in float16."""
    failed: bool = False
    """Whether a number that is not finite stopped the training."""
    history: Sequence[Mapping[str, Any]] = ()
    """The evaluations, of which the first is of step 0."""


def fit(
    lm: LanguageModel,
    job: Job,
    config: OptimConfig,
    *,
    state_dir: Path,
    log: RecordWriter,
    description: str,
    weights: str = "",
) -> Outcome:
    """Train ``lm`` in place and leave in it the weights of the kept step.

    At every evaluation a state is written to ``state_dir``. Where a state is there already the loop goes on
    from it, on a CPU to the same bits as if it had never stopped. ``weights`` is the hash of the weights that
    ``lm`` begins with, without adapters: a state that began with other weights is refused. A loss that is not
    finite stops the training before its update; UserError is raised where no update was evaluated before.

    Several processes take each step together (train/step.py). All see the same numbers, so all decide the
    same; rank 0 alone calls ``log``.
    """
    if not distributed.is_rank_zero():
        log = _ignore
    journal = Journal(
        log,
        behind=1 if lm.device.type == "cuda" else 0,
        token_seconds=token_seconds(lm, job.items_at(0), job.objective, config),
        loss_scaling=lm.compute.needs_loss_scaling,
    )
    with ExitStack() as stack:
        if config.parallel is Parallel.fsdp and distributed.size() > 1:
            lm = stack.enter_context(sharded(lm, weights=config.weights))
            config = replace(config, weights=Weights.float32)  # the shards are the float32 copies already
        training_mode = config.dropout or config.gradient_checkpointing
        optimizer = Optimizer(lm.model, config)
        scaler = torch.amp.GradScaler(lm.device.type, enabled=lm.compute.needs_loss_scaling)
        progress = _resume(state_dir, weights, optimizer, scaler)
        if progress is None:
            progress = state.Progress(weights=weights)
            if job.objective.retain_weight is not None:
                progress.retain_weight = job.objective.retain_weight.first
            _evaluate(lm, job, progress, log)
            state.save(state_dir, optimizer, progress)

        retain_weight = None
        if progress.retain_weight is not None:
            retain_weight = torch.tensor(progress.retain_weight, dtype=torch.float64, device=lm.device)
        first, skipped_before = progress.step, progress.skipped_steps
        for step in track(range(first, job.steps), description, job.steps, first):
            if progress.stopped_by:
                break
            started = time.perf_counter()
            if lm.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(lm.device)
            items = job.items_at(step)
            lr = learning_rate(config, step, job.steps)
            optimizer.set_lr(lr)

            lm.model.train(training_mode)
            terms = backward(
                lm,
                items,
                job.objective,
                reference=job.reference_at(step),
                micro_batch=config.micro_batch,
                chunk=config.chunk,
                keep_logits=config.keep_logits,
                scale=scaler.scale,
                retain_weight=retain_weight,
            )
            optimizer.take_gradients()
            scaler.unscale_(optimizer.engine)
            job.filter_gradients(optimizer.masters)
            norm = optimizer.clip(config.max_grad_norm)
            numbers = {**terms, "grad_norm": norm}
            if retain_weight is not None:
                numbers["retain_weight"] = retain_weight
            values = torch.stack([sent(x.detach(), norm.device, torch.float64) for x in numbers.values()])
            finite = values.isfinite().all()
            optimizer.step(skip=~finite)
            if retain_weight is not None:
                assert job.objective.retain_weight is not None
                after = job.objective.retain_weight.after(retain_weight, terms, step)
                retain_weight = torch.where(sent(finite, lm.device), after, retain_weight)
            scaler.update()
            optimizer.zero_grad()

            progress.step = step + 1
            tokens = sum(len(item.input_ids) for role in items.values() for item in role)
            progress.tokens += tokens
            peak = torch.cuda.max_memory_allocated(lm.device) if lm.device.type == "cuda" else None
            journal.add(Launched(step + 1, tuple(numbers), Fetched(values), lr, tokens, started, peak))

            due = (step + 1) % job.evaluate_every == 0 or step + 1 == job.steps
            if due:
                journal.settle()
            if journal.failure:
                break
            if due:
                progress.skipped_steps = skipped_before + journal.skipped
                progress.loss_scaling = scaler.state_dict() if scaler.is_enabled() else None
                progress.retain_weight = None if retain_weight is None else retain_weight.item()
                _evaluate(lm, job, progress, log)
                state.save(state_dir, optimizer, progress)

        progress.skipped_steps = skipped_before + journal.skipped
        failure = journal.failure
        if failure is None and 0 < progress.step == progress.skipped_steps:
            steps = counted(progress.step, "step")
            failure = f"all {steps}: the gradient is not finite in float16; no update was made"
        if failure:
            _refuse_empty(progress, failure, config, job.section)
            progress.step, progress.stopped_by = max(first, journal.read), failure
        lm.model.eval()
        if progress.kept_step != progress.step or failure:
            state.load_weights(state_dir / f"step_{progress.kept_step:08d}", optimizer)
        optimizer.release()
        del optimizer  # its moments make room for weights that are no longer in shards
        return Outcome(
            progress.step,
            progress.kept_step,
            progress.stopped_by,
            progress.tokens,
            _way(lm, job.objective, config),
            progress.skipped_steps,
            failed=failure is not None,
            history=progress.history,
        )


def _resume(
    directory: Path, weights: str, optimizer: Optimizer, scaler: torch.amp.GradScaler
) -> state.Progress | None:
    """Restore the newest state under ``directory``; None where none was written yet."""
    found = distributed.broadcast(state.find(directory, weights) if distributed.is_rank_zero() else None)
    if found is None:
        return None
    if distributed.is_rank_zero():
        state.drop_damaged(found)
    progress = state.load_progress(found)
    state.load_weights(found, optimizer)
    state.load_optimizer(found, optimizer)
    if progress.loss_scaling is not None:
        scaler.load_state_dict(progress.loss_scaling)
    return progress


def _refuse_empty(progress: state.Progress, failure: str, config: OptimConfig, section: str) -> None:
    """Refuse a training that failed before any evaluation after an update: it has no weights to keep."""
    if progress.history[-1]["step"] > progress.skipped_steps:
        return
    hint = f"lower `{section}lr` (now {config.lr:g})"
    if "float16" in failure:
        hint = f"use `{section}precision=float32`, or `bfloat16` where the GPU has it"
    raise UserError(failure, hint)


def _ignore(record: dict[str, Any]) -> None:
    pass


def _evaluate(lm: LanguageModel, job: Job, progress: state.Progress, log: RecordWriter) -> None:
    look = {"step": progress.step, **job.evaluate(lm, progress.step)}
    progress.history.append(look)
    verdict = job.judge(progress.history)
    progress.kept_step, progress.stopped_by = verdict.kept_step, verdict.stop
    log({"kind": "eval", **look})


def _way(lm: LanguageModel, objective: Objective, config: OptimConfig) -> dict[str, Any]:
    settings = Settings.of(config)
    vocabulary = len(lm.model.get_output_embeddings().weight)
    return {
        "layout": str(lm.layout),
        "pooling_scope": objective.needs.coupling,
        **vars(settings),
        "chunk": settings.chunk or chunk_for(vocabulary),
        "kernels": fused.described(lm.device.type),
    }
