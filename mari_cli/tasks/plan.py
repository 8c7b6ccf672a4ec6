"""`mari plan`: what a run of `mari unlearn` will cost, without weights and without a GPU."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from mari_cli import distributed
from mari_cli.config import Device as DeviceChoice
from mari_cli.config import ModelConfig, Parallel, Precision, UnlearnRun, bytes_of
from mari_cli.data.corpora import load_corpora
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, counted
from mari_cli.losses import objective as losses
from mari_cli.losses.objective import Objective
from mari_cli.losses.support import SupportSource
from mari_cli.measure import devices
from mari_cli.measure.devices import Device
from mari_cli.models.load import LanguageModel, load_tokenizer, prompt_style
from mari_cli.models.lora import add_adapters
from mari_cli.models.packing import foresee
from mari_cli.models.skeleton import skeleton
from mari_cli.progress import say
from mari_cli.sections import titled
from mari_cli.suites.states import BYTES as STATES_BYTES
from mari_cli.supports.twins import Way
from mari_cli.tasks import supporting
from mari_cli.tasks.forgetting import STREAM_OF, Draws, alternative_items, context_layer, draws_of
from mari_cli.tasks.setting import (
    Setting,
    batches,
    disk_of_run,
    refuse_shards,
    require_whole_shares,
    tokenize_corpora,
    words_of,
)
from mari_cli.tasks.supporting import asked_of, epochs_of_base, source_of
from mari_cli.train import planner
from mari_cli.train.planner import AsOn
from mari_cli.train.step import Group

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
    with distributed.imagined(processes, 0):
        refuse_shards(config.train, _compute(config, on))
    limit = _asked_memory(memory) if memory else on.memory if on.cuda else None
    if memory is None and config.train.memory_limit is not None:
        limit = bytes_of(config.train.memory_limit, "train.memory_limit")
    objective = losses.build(config.loss)
    config, lm, draws, shapes_from = _subject(config, objective, on, lengths)
    if (sequences := sum(draws.sizes.values())) > MOST_SEQUENCES:
        raise UserError(
            f"a step of {sequences} sequences is not planned: each is counted, {MOST_SEQUENCES} at most",
            "plan a smaller `train.forget_batch` and `train.retain_batch`: what a step costs grows with them",
        )
    packed = lm.layout.packed
    groups = planner.heaviest(draws.items_at, config.train.steps, packed=packed)
    choice = planner.choose(lm, groups, objective, config.train, limit=limit, processes=processes, tell=_tell)
    if limit is not None:
        planner.require(choice, config.train, limit=limit)
    chosen = choice.chosen
    assert chosen is not None
    baseline = planner.fine_tuning(lm, groups, chosen.settings, config.train, processes=processes)
    run = _run(draws, config.train.steps, packed=packed)
    seconds = chosen.flops / (on.flops * on.share) if on.flops else None
    # a step of the run is on average lighter than the heaviest, which was counted
    heaviest = planner.positions(groups, packed)
    mean_seconds = None if seconds is None else seconds * run.positions / heaviest
    return {
        "model": {
            "name": config.model.name,
            "shapes": shapes_from,
            "parameters": sum(p.numel() for p in lm.model.parameters()),
            "trained": sum(p.numel() for p in lm.model.parameters() if p.requires_grad),
            "precision": lm.compute.precision,
        },
        "loss": titled(config.loss),
        "layout": {"packed": packed, "reason": lm.layout.reason},
        "processes": {"count": processes, "parallel": config.train.parallel.value},
        "device": asdict(on),
        "step": {
            "sequences": {role: len(of_role) for role, of_role in groups.items()},
            "tokens": planner.tokens(groups),
            "targets": sum(item.num_targets for of_role in groups.values() for item in of_role),
            "padding": 1 - planner.tokens(groups) / heaviest,
        },
        "settings": {**asdict(chosen.settings), "changed": chosen.settings.beyond(_asked(config))},
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
        "support": _support(config, lm, draws),
        "disk": _disk(config, lm, draws),
        "time": {
            "assumed_share_of_peak": on.share if on.flops else None,
            "step_seconds": mean_seconds,
            "tokens_per_second": None if not mean_seconds else run.tokens / mean_seconds,
            "run_seconds": None if mean_seconds is None else mean_seconds * config.train.steps,
        },
        "run": {"steps": config.train.steps, **asdict(run)},
    }


def _tell(tried: str) -> None:
    say(f"counting {tried}")


def _asked(config: UnlearnRun) -> planner.Settings:
    return planner.Settings.of(config.train)


# -- the device ----------------------------------------------------------------------------------------------


def _device(name: str | None, memory: str | None) -> Device:
    if name is None:
        if torch.cuda.is_available():
            return devices.this_gpu()
        if memory is None:
            return devices.this_cpu()
        return Device("a GPU", 0.0, _asked_memory(memory), devices.MFU, "--memory")
    if (found := devices.named(name)) is None:
        known = ", ".join(f"`{gpu.name}`" for gpu in devices.GPUS.values())
        raise UserError(
            f"no device called `{name}` is known",
            f"one of {known}, `cpu`; of any other give the `--memory`",
        )
    return found


def _asked_memory(memory: str) -> int:
    try:
        return bytes_of(memory, "--memory")
    except ValueError as error:
        raise UserError(str(error), "for instance `--memory 40GiB`") from error


def _compute(config: UnlearnRun, on: Device) -> AsOn:
    """As `choose_compute` would settle it there."""
    asked = config.train.precision
    cuda = on.cuda and config.train.device is not DeviceChoice.cpu
    if asked is Precision.auto:
        dtype, reason = (torch.bfloat16, f"auto: {on.name}") if cuda else (torch.float32, "auto: CPU")
    else:
        dtype, reason = getattr(torch, asked), "asked for"
    return AsOn(torch.device("cpu"), dtype, reason, mixes=cuda)


# -- the model and what it sees ------------------------------------------------------------------------------


def _subject(
    config: UnlearnRun, objective: Objective, on: Device, lengths: str | None
) -> tuple[UnlearnRun, LanguageModel, Draws, str]:
    """The run with the support that is chosen for it, the model without weights, what it is trained on, and
    where its shapes are from."""
    compute = _compute(config, on)
    if lengths is not None:
        model, source = skeleton(
            config.model, vocabulary=_vocabulary(config.model), dropout=config.train.dropout
        )
        lm = _language_model(config, model, None, compute)
        items = imagined_items(lengths, config, lm.max_length)
        if "alternative" in objective.needs.roles and items["forget"][0].supervised_from == 1:
            raise UserError(
                f"{titled(config.loss)} needs prompts, but `--lengths {lengths}` is running text",
                "`--lengths 64+48` plans prompts of 64 tokens with answers of 48",
            )
        if source_of(config.loss) is SupportSource.auto:
            config = supporting.with_support(config, source=SupportSource.twins)
        context_layer(config, lm)
        return config, lm, Imagined(config, items, objective.needs), source
    try:
        texts = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
        tokenizer = load_tokenizer(config.model, words_of(texts))
    except UserError as error:
        hint = "`--lengths 512` plans without corpora and tokenizer"
        raise UserError(str(error), f"{error.hint}; {hint}" if error.hint else hint) from error
    vocabulary = len(tokenizer) if config.model.path is None else None
    model, source = skeleton(config.model, vocabulary=vocabulary, dropout=config.train.dropout)
    lm = _language_model(config, model, tokenizer, compute)
    setting = Setting(texts, tokenizer, compute)
    corpora = tokenize_corpora(config, setting, lm)
    config, _ = supporting.choose(config, setting, corpora, lm.style)
    context_layer(config, lm)
    supporting.prepare(config, setting, corpora, lm.style)
    alternatives = alternative_items(config, lm, corpora["forget"])
    draws, _ = draws_of(config, corpora, alternatives, objective.needs)
    held_out = {"holdout": corpora["holdout"].items} if "holdout" in corpora else {}
    return config, lm, replace(draws, items={**draws.items, **held_out}), source


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


def _language_model(run: UnlearnRun, model: PreTrainedModel, tokenizer: Any, compute: AsOn) -> LanguageModel:
    """As the run will train it: laid out, and with its adapters."""
    config, layout = run.model, foresee(model, run.train.packing)
    with torch.device("meta"):
        add_adapters(model, config.lora, seed=0)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=config.name,
        max_length=config.max_length or context or 1024,
        style=prompt_style(config, tokenizer),
        compute=compute,
        layout=layout,
    )


@dataclass(frozen=True)
class Alike(Sequence[Item]):
    """``size`` items of which only the lengths are imagined: they are one, and take the room of one."""

    item: Item
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self.item] * len(range(self.size)[at])
        if not 0 <= at < self.size:
            raise IndexError(at)
        return self.item


class Imagined(Draws):
    """Draws from such items: nobody needs to shuffle them, or to look at each."""

    def items_at(self, step: int) -> Group:
        return {role: self.items[role][: self.sizes[STREAM_OF[role]]] for role in self.needs.roles}

    def count(self, role: str) -> int:
        return len(self.items[role])

    def targets(self, role: str, *, whole: bool) -> int:
        return len(self.items[role]) * self.items[role][0].num_targets


def imagined_items(lengths: str, config: UnlearnRun, max_length: int) -> dict[str, Sequence[Item]]:
    """Items of the lengths that ``lengths`` asks for, as many as the run draws, none of which comes twice."""
    parts = lengths.split(",")
    shapes = [_shape(part, lengths, max_length) for part in parts]
    if len(shapes) > 2:
        raise UserError(f"`--lengths {lengths}` has {len(parts)} parts", "forget and retain, or one for both")
    train = config.train

    def some(shape: tuple[int, int], batch: int) -> Alike:
        tokens, start = shape
        return Alike(Item((0,) * tokens, start, 0), batch * train.steps)

    forget = some(shapes[0], train.forget_batch)
    return {"forget": forget, "retain": some(shapes[-1], train.retain_batch), "alternative": forget}


def _shape(part: str, whole: str, max_length: int) -> tuple[int, int]:
    """(tokens, index of the first that is a target)."""
    try:
        counts = [int(word) for word in part.split("+")]
    except ValueError:
        counts = []
    if not (1 <= len(counts) <= 2 and min(counts) >= 1 and sum(counts) >= 2):
        raise UserError(
            f"`--lengths {whole}` is no number of tokens",
            "`512` for running text, `64+48` for a prompt and its answer, `512,1024` for forget and retain",
        )
    if sum(counts) > max_length:
        raise UserError(
            f"`--lengths {whole}` is longer than the model takes, {counted(max_length, 'token')}",
            "shorten it, or set `model.max_length`",
        )
    return sum(counts), counts[0] if len(counts) == 2 else 1


# -- the run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """Means over the steps that were looked at."""

    tokens: float
    positions: float
    padding: float


def _run(draws: Draws, steps: int, *, packed: bool) -> _Run:
    looked_at = [draws.items_at(step) for step in planner.some_of(steps)]
    tokens = sum(map(planner.tokens, looked_at)) / len(looked_at)
    positions = sum(planner.positions(groups, packed) for groups in looked_at) / len(looked_at)
    return _Run(tokens, positions, 1 - tokens / positions)


def _total(items: Sequence[Item], of: Callable[[Item], int]) -> int:
    """The sum over ``items``; imagined ones are one item, so many times."""
    return len(items) * of(items[0]) if isinstance(items, Alike) else sum(map(of, items))


def _support(config: UnlearnRun, lm: LanguageModel, draws: Draws) -> dict[str, Any]:
    """What is asked and trained before step 1, so that it is known what is supported. Operations: 2 for each
    weight and token, in training 6."""
    source = source_of(config.loss)
    if source is None:
        return {"source": None, "forward_tokens": 0, "training_tokens": 0, "operations": 0.0}
    asked, finetune = asked_of(config), config.finetune
    tokens = {role: _total(items, lambda item: len(item.input_ids)) for role, items in draws.items.items()}
    holdout = tokens.get("holdout", 0)
    forwards, training = tokens["forget"], 0
    match source:
        case SupportSource.neighbours:
            forwards += tokens["retain"]
        case SupportSource.twins:
            ways = supporting.ways_of(asked, draws.items["forget"])
            forwards += len(ways) * asked.twins * tokens["forget"] + holdout
            if Way.generated in ways:
                forwards += asked.twins * _total(
                    draws.items["forget"],
                    lambda item: sum(range(item.supervised_from, len(item.input_ids) - 1)),
                )
        case SupportSource.base:
            forwards += holdout * (1 if asked.sharpen is not None else 2)
            training = epochs_of_base(config) * tokens["retain"]
        case SupportSource.gold:
            forwards += holdout
        case SupportSource.siblings:
            forwards += 2 * tokens["forget"] + holdout
        case SupportSource.assistant:
            forwards += tokens["forget"] + holdout
            training = finetune.epochs * tokens["forget"]
    weights = sum(p.numel() for p in lm.model.parameters())
    return {
        "source": source.value,
        "forward_tokens": forwards,
        "training_tokens": training,
        "operations": weights * (2.0 * forwards + 6.0 * training),
    }


STATES = {
    SupportSource.twins: 1,
    SupportSource.base: 1,
    SupportSource.gold: 1,
    SupportSource.siblings: 3,
    SupportSource.assistant: 2,
}
"""How many models' states at the forget positions are kept; small models count as if they were as wide."""


def _disk(config: UnlearnRun, lm: LanguageModel, draws: Draws) -> dict[str, int]:
    """Bytes that the run writes, as models/reference.py, models/context.py, supports/, suites/states.py and
    train/state.py do; without the states of retain items that are kept for validation."""
    vocabulary, width = lm.model.get_output_embeddings().weight.shape
    hidden = lm.model.config.get_text_config().hidden_size
    each = 2 if lm.compute.dtype.itemsize == 2 else 4
    items, needs, targets = draws.items, draws.needs, draws.targets
    source = source_of(config.loss)
    contexts = source is SupportSource.neighbours
    reference = sum(targets(role, whole=contexts) * width * each for role in needs.beside_reference)
    reference += sum(8 * draws.count(role) for role in needs.reference_log_p)
    reference += sum(targets(role, whole=False) * hidden * each for role in needs.reference_layer)
    context = support = 0
    if needs.stored_tokens is not None and source is not None:
        stored = min(needs.stored_tokens, vocabulary - 1) + 1
        forget, retain = targets("forget", whole=True), targets("retain", whole=True)
        if contexts:
            context = (forget + retain) * hidden * each + forget * stored * 8
            if "retain" not in needs.beside_reference:
                context += retain * width * each
        else:
            distributions = 1
            if source is SupportSource.twins:  # and what the model before says
                distributions += len(supporting.ways_of(asked_of(config), draws.items["forget"]))
            support = STATES[source] * forget * width * each
            support += forget * (8 * stored + 4 * distributions * (stored + 1))
            if source is SupportSource.base and asked_of(config).sharpen is None:
                support += _total(items.get("holdout", ()), lambda item: item.num_targets) * width * each
            if source in (SupportSource.base, SupportSource.assistant):  # the model that is trained
                support += 4 * sum(p.numel() for p in lm.model.parameters())
    measured = 0
    metrics = draws.config.metrics
    if metrics.marginal:
        for role in ("forget", "retain"):
            asked = items[role] if metrics.max_items is None else items[role][: metrics.max_items]
            measured += _total(asked, lambda item: item.num_targets) * width * STATES_BYTES
    return {
        "reference": reference,
        "context": context,
        "support": support,
        "measured": measured,
        "run": disk_of_run(lm.model),
    }


# -- as a table ----------------------------------------------------------------------------------------------


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, value, what to know of it) of a plan."""
    model, step, flops, memory = found["model"], found["step"], found["flops"], found["memory"]
    device, disk, run, clock = found["device"], found["disk"], found["run"], found["time"]
    size = planner.size
    sequences = " + ".join(f"{count} {role}" for role, count in step["sequences"].items())
    processes, layout = found["processes"], found["layout"]
    trained = ""
    if model["trained"] < model["parameters"]:
        trained = f", {model['trained'] / 1e6:.2f} M trained"
    out = [
        (
            "model",
            f"{model['parameters'] / 1e6:.1f} M",
            f"{model['name']}, shapes: {model['shapes']}{trained}",
        ),
        ("device", device["name"], f"{size(device['memory'])}, {model['precision']} ({device['source']})"),
    ]
    if processes["count"] > 1:
        kept = "in shards" if processes["parallel"] == Parallel.fsdp else "whole in each"
        out.append(
            (
                "processes",
                str(processes["count"]),
                f"weights {kept}; operations and memory are those of one process, with such a device each",
            )
        )
    out += [
        ("layout", "packed" if layout["packed"] else "padded", layout["reason"]),
        ("settings", found["settings"]["changed"] or "as configured", found["why"]),
        ("tokens a step", f"{run['tokens']:.0f}", f"{sequences} sequences"),
        (
            "padding",
            f"{run['padding']:.1%}",
            f"{step['padding']:.1%} in the heaviest step, which all below is of",
        ),
        (
            "operations a step",
            f"{flops['step'] / 1e12:.3g} T",
            f"{flops['ratio']:.3f} × fine-tuning on the same",
        ),
        ("memory at the peak", size(memory["peak"]), f"{memory['ratio']:.3f} × fine-tuning on the same"),
    ]
    out += [(f"  {part}", size(count), "") for part, count in memory["parts"].items()]
    if (support := found["support"])["operations"]:
        told = f"`{support['source']}`, before step 1: {support['forward_tokens']:,} tokens read"
        if support["training_tokens"]:
            told += f", at most {support['training_tokens']:,} trained on"
        steps = support["operations"] / flops["step"]
        out.append(("support", f"{support['operations'] / 1e12:.3g} T", f"{told}; as {steps:.0f} steps"))
    spare = memory["needed"] - memory["peak"]
    if spare:
        out.append(("  kept free", size(spare), "for CUDA itself, and what cannot be fitted together"))
    out += [
        (
            "disk: reference",
            size(disk["reference"] + disk["context"] + disk["support"]),
            "kept in `cache` for further runs",
        ),
        (
            "disk: measuring",
            size(disk["measured"]),
            "hidden states in `cache` for marginal information, one model at a time; gone afterwards",
        ),
        ("disk: run", size(disk["run"]), "two states to resume from, and the kept weights"),
    ]
    if clock["step_seconds"] is not None:
        share = (
            f"if {clock['assumed_share_of_peak']:.0%} of {device['flops'] / 1e12:.3g} T a second are reached"
        )
        out += [
            ("time a step", _duration(clock["step_seconds"]), share),
            (
                "time of the run",
                _duration(clock["run_seconds"]),
                f"{counted(run['steps'], 'step')}, without evaluations",
            ),
        ]
    return out


def as_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
