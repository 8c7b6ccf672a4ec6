"""`mari plan`: what a run of `mari unlearn` will cost, without weights and without a GPU."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from mari_cli import distributed
from mari_cli.config import Device, ForgetConfig, ModelConfig, OptimConfig, Precision, UnlearnRun, bytes_of
from mari_cli.data.corpora import load_corpora, of_request
from mari_cli.errors import UserError
from mari_cli.losses import objective as losses
from mari_cli.losses.objective import Objective
from mari_cli.losses.support import SupportSource
from mari_cli.measure import devices
from mari_cli.measure.devices import DeviceSpec
from mari_cli.models.device import Compute, choose_compute
from mari_cli.models.layers import require_trained
from mari_cli.models.load import LanguageModel, check_vocabulary, context_of, load_tokenizer, with_tokenizer
from mari_cli.models.lora import add_adapters
from mari_cli.models.packing import foresee_layout
from mari_cli.models.skeleton import skeleton
from mari_cli.progress import say
from mari_cli.sections import display_name
from mari_cli.suites.standard import Corpus
from mari_cli.tasks import supporting
from mari_cli.tasks.alternatives import alternative_items
from mari_cli.tasks.early_checks import BESIDE
from mari_cli.tasks.forgetting import Draws, context_layer, draws_of
from mari_cli.tasks.imagined_items import Imagined, imagined_items
from mari_cli.tasks.plan_costs import cost_of_audit, cost_of_support, cost_on_disk
from mari_cli.tasks.setting import (
    Setting,
    named_beside,
    notes_on_reading,
    reference_at_path,
    refuse_shards,
    require_context,
    tokenize_corpora,
    words_of,
)
from mari_cli.tasks.shares import batches, require_whole_shares
from mari_cli.tasks.supporting import source_of
from mari_cli.train import planner
from mari_cli.train.forecast import Settings, forecast_fine_tuning
from mari_cli.train.workload import count_positions, count_tokens, heaviest_step, sample_steps

MOST_SEQUENCES = 2**14
"""In a step that is planned: it is run on tensors without content, which takes a minute for so many."""


def plan(
    config: UnlearnRun,
    *,
    lengths: str | None = None,
    memory: str | None = None,
    device: str | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """The cost of a step and of the run, and the way to take a step that fits ``memory``.

    ``lengths`` stands for the corpora: `512` is running text in blocks of 512 tokens, `64+48` prompts of 64
    tokens with answers of 48; two of them, with a comma between, are forget and retain. ``memory`` is a size
    as `40GiB`; without it, that of ``device``: a name of `devices.GPUS`, `cpu`, or None for what is here.
    ``processes`` have such a device each, and share the run.
    """
    require_whole_shares(batches(config), processes)
    on = _device(device, memory)
    with distributed.simulate_rank(processes, 0):
        refuse_shards(config.train, _compute(config, on))
    limit = _asked_memory(memory) if memory else on.memory if on.cuda else None
    if memory is None and config.train.memory_limit is not None:
        limit = bytes_of(config.train.memory_limit, "train.memory_limit")
    objective = losses.build(config.loss)
    trained = {"target": config.finetunes_target, "gold": config.finetunes_gold}
    subject = _subject(config, objective, on, lengths)
    config, lm, draws, requests = subject.config, subject.lm, subject.draws, subject.requests
    if objective.needs.states is not None:
        require_trained(lm.model, objective.needs.states.layer)
    if (sequences := sum(draws.sizes.values())) > MOST_SEQUENCES:
        raise UserError(
            f"a step of {sequences} sequences is not planned: each is counted, {MOST_SEQUENCES} at most",
            "plan a smaller `train.forget_batch` and `train.retain_batch`: what a step costs grows with them",
        )
    packed = lm.layout.packed
    groups = heaviest_step(draws.items_at, config.train.steps, packed=packed)

    def tell(tried: str) -> None:
        say(f"counting {tried}")

    choice = planner.choose(lm, groups, objective, config.train, limit=limit, processes=processes, tell=tell)
    if limit is not None:
        planner.require(choice, config.train, limit=limit)
    chosen = choice.chosen
    assert chosen is not None
    baseline = forecast_fine_tuning(lm, groups, chosen.settings, config.train, processes=processes)
    run = _mean_step(draws, config.train.steps, packed=packed)
    seconds = chosen.flops / (on.flops * on.share) if on.flops else None
    # a step of the run is on average lighter than the heaviest, which was counted
    heaviest = count_positions(groups, packed)
    mean_seconds = None if seconds is None else seconds * run["positions"] / heaviest
    return {
        "model": {
            "name": config.model.name,
            "shapes": subject.shapes,
            "parameters": sum(p.numel() for p in lm.model.parameters()),
            "trained": sum(p.numel() for p in lm.model.parameters() if p.requires_grad),
            "precision": lm.compute.precision,
        },
        "loss": display_name(config.loss),
        "layout": {"packed": packed, "reason": lm.layout.reason},
        "processes": {"count": processes, "parallel": config.train.parallel.value},
        "device": asdict(on),
        "step": {
            "sequences": {role: len(of_role) for role, of_role in groups.items()},
            "tokens": count_tokens(groups),
            "targets": sum(item.num_targets for of_role in groups.values() for item in of_role),
            "padding": 1 - count_tokens(groups) / heaviest,
        },
        "settings": {**asdict(chosen.settings), "changed": chosen.settings.beyond(Settings.of(config.train))},
        "why": planner.reason(choice, limit=limit),
        "tried": [
            {"settings": asdict(f.settings), "flops": f.flops, "needed": f.needed} for f in choice.tried
        ],
        "flops": {
            "step": chosen.flops,
            "fine_tuning": baseline.flops,
            "ratio": chosen.flops / baseline.flops,
        },
        "memory": {
            "peak": chosen.peak,
            "parts": chosen.parts,
            "loss_stage": chosen.loss_stage,
            "needed": chosen.needed,
            "limit": limit,
            "fine_tuning_peak": baseline.peak,
            "ratio": chosen.peak / baseline.peak,
        },
        "support": cost_of_support(config, lm, draws),
        "audit": cost_of_audit(config, lm, subject.corpora),
        "disk": cost_on_disk(config, lm, draws, requests),
        "time": {
            "assumed_share_of_peak": on.share if on.flops else None,
            "step_seconds": mean_seconds,
            "tokens_per_second": None if not mean_seconds else run["tokens"] / mean_seconds,
            "run_seconds": None if mean_seconds is None else mean_seconds * config.train.steps * requests,
        },
        "run": {
            "steps": config.train.steps,
            "requests": requests,
            "not_counted": [role for role, is_trained in trained.items() if is_trained],
            **run,
        },
    }


def _device(name: str | None, memory: str | None) -> DeviceSpec:
    if name is None:
        if torch.cuda.is_available():
            return devices.this_gpu()
        if memory is None:
            return devices.this_cpu()
        return DeviceSpec("a GPU", 0.0, _asked_memory(memory), devices.MFU, "--memory")
    if (found := devices.find_device(name)) is None:
        known = ", ".join(f"`{gpu.name}`" for gpu in devices.GPUS.values())
        raise UserError(
            f"no device called `{name}` is known", f"one of {known}, `cpu`; of any other give the `--memory`"
        )
    return found


def _asked_memory(memory: str) -> int:
    try:
        return bytes_of(memory, "--memory")
    except ValueError as error:
        raise UserError(str(error), "for instance `--memory 40GiB`") from error


def _compute(config: UnlearnRun, on: DeviceSpec) -> Compute:
    """The device and the precision of the run's steps; refused where one of its trainings cannot be there."""
    _compute_of(config.finetune, on, "finetune.")
    return _compute_of(config.train, on, "train.")


def _compute_of(training: OptimConfig, on: DeviceSpec, section: str) -> Compute:
    """As `choose_compute` would settle it there."""
    if not on.cuda or training.device is Device.cpu:
        return choose_compute(Device.cpu, training.precision, training.weights, section=section)
    auto = training.precision is Precision.auto
    dtype = torch.bfloat16 if auto else getattr(torch, training.precision)
    return Compute(torch.device("cpu"), dtype, f"auto: {on.name}" if auto else "asked for", as_on_cuda=True)


@dataclass(frozen=True)
class _Subject:
    """What is planned."""

    config: UnlearnRun
    """With the support that is chosen for it; of several requests that with the most to forget."""
    lm: LanguageModel
    """Without weights."""
    draws: Draws
    shapes: str
    """Where they are from."""
    corpora: Mapping[str, Corpus]
    """Empty where lengths stand for them."""
    requests: int


def _subject(config: UnlearnRun, objective: Objective, on: DeviceSpec, lengths: str | None) -> _Subject:
    compute, requests = _compute(config, on), 1
    if lengths is not None:
        if config.in_turn and not isinstance(asked := cast(ForgetConfig, config.forget).requests, str):
            requests = asked if isinstance(asked, int) else len(asked)
        model, source = skeleton(
            config.model, vocabulary=_vocabulary(config.model), dropout=config.train.dropout
        )
        lm = _laid_out(config, model, None, compute)
        items = imagined_items(lengths, config, lm.max_length)
        answers = "alternative" in objective.needs.roles and config.loss.wanted_tokens is None
        if answers and items["forget"][0].supervised_from == 1:
            raise UserError(
                f"{display_name(config.loss)} needs prompts, but `--lengths {lengths}` is running text",
                "`--lengths 64+48` plans prompts of 64 tokens with answers of 48",
            )
        if source_of(config.loss) is SupportSource.auto:
            config = supporting.with_support(config, source=SupportSource.twins)
        context_layer(config, lm)
        return _Subject(config, lm, Imagined(config, items, objective.needs), source, {}, requests)
    try:
        texts = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
        tokenizer = load_tokenizer(config.model, words_of(texts))
    except UserError as error:
        hint = "`--lengths 512` plans without corpora and tokenizer"
        raise UserError(str(error), f"{error.hint}; {hint}" if error.hint else hint) from error
    if config.in_turn:
        requests, forget = len(texts.requests), cast(ForgetConfig, config.forget)
        most = max(texts.requests, key=lambda request: sum(len(record.text) for record in request.records))
        config = replace(config, forget=replace(forget, request_number=most.number), gold="none")
        texts = of_request(texts, most.number, keep_later=forget.keep_later)
    vocabulary = len(tokenizer) if config.model.path is None else None
    model, source = skeleton(config.model, vocabulary=vocabulary, dropout=config.train.dropout)
    check_vocabulary(config.model, model, tokenizer)
    lm = _laid_out(config, model, tokenizer, compute)
    setting = Setting(texts, tokenizer, compute)
    corpora = tokenize_corpora(config, setting, lm)
    config, prepared, notes = supporting.prepare_support(config, setting, corpora, lm.style)
    _check_beside(config, setting, corpora, prepared.given if prepared else {})
    context_layer(config, lm)
    alternatives = alternative_items(config, lm, corpora["forget"])
    draws, _ = draws_of(config, corpora, alternatives, objective.needs)
    held_out = {"holdout": corpora["holdout"].items} if "holdout" in corpora else {}
    draws = replace(draws, items={**draws.items, **held_out})
    for note in [*texts.notes, *notes_on_reading(corpora, lm, config.model), *notes]:
        say(f"note: {note}")
    return _Subject(config, lm, draws, source, corpora, requests)


def _check_beside(
    config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus], given: Mapping[str, ModelConfig]
) -> None:
    """Refuse the models beside the run's, and those ``given`` to its support, as the run does: other tokens,
    a context shorter than an item."""
    beside = {f"the {role}": named_beside(key, config, setting) for key, role in BESIDE.items()}
    beside["the reference of membership inference"] = reference_at_path(config, setting)
    beside |= {f"the model of `loss.support` ({name})": model for name, model in given.items()}
    for name, model in beside.items():
        if model is not None:
            shapes, _ = skeleton(model, vocabulary=None)
            check_vocabulary(model, shapes, setting.tokenizer)
            require_context(context_of(model, shapes.config), name, corpora)


def _vocabulary(config: ModelConfig) -> int | None:
    """Tokens, where neither the model nor a tokenizer says."""
    architecture = config.architecture
    if architecture is None or "vocab_size" in architecture:
        return None
    if config.tokenizer == "train":
        return config.tokenizer_vocab_size
    raise UserError(
        "without corpora nothing says how many tokens the model has",
        "add `vocab_size` to `model.architecture`",
    )


def _laid_out(run: UnlearnRun, model: PreTrainedModel, tokenizer: Any, compute: Compute) -> LanguageModel:
    """As the run will train it: laid out, and with its adapters."""
    config, layout = run.model, foresee_layout(model, run.train.packing)
    with torch.device("meta"):
        add_adapters(model, config.lora, seed=0)
    return with_tokenizer(config, model, tokenizer, compute, layout)


def _mean_step(draws: Draws, steps: int, *, packed: bool) -> dict[str, float]:
    """Means of tokens, positions and padding over the steps that are looked at."""
    looked_at = [draws.items_at(step) for step in sample_steps(steps)]
    tokens = sum(map(count_tokens, looked_at)) / len(looked_at)
    positions = sum(count_positions(groups, packed) for groups in looked_at) / len(looked_at)
    return {"tokens": tokens, "positions": positions, "padding": 1 - tokens / positions}
