"""What a step will cost, before any step: the real step, run once on a model without content.

Floating-point operations, and the most memory alive at one time, by what it is for. From that follows the
cheapest way to take a step that fits a memory; every way gives the same gradient.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils.hooks import RemovableHandle

from mari_cli import distributed
from mari_cli.config import Memory, OptimConfig, OptimizerName, Parallel, Weights
from mari_cli.errors import UserError, size
from mari_cli.losses.objective import FINE_TUNING, Objective
from mari_cli.measure import fake
from mari_cli.measure.memory import Tracker
from mari_cli.models import attention
from mari_cli.models.device import Compute
from mari_cli.models.load import LanguageModel, checkpoint_activations
from mari_cli.models.trunk import trunk_of
from mari_cli.train.optim import Optimizer
from mari_cli.train.sharding_planned import PlannedShards
from mari_cli.train.step import (
    KEPT_BYTES,
    Group,
    Recalled,
    Reference,
    backward,
    chunk_for,
    logits_bytes,
    operand_head,
)

C = TypeVar("C", bound=OptimConfig)

GIB = 2**30
RESERVE_BYTES, RESERVE_SHARE = 1 * GIB, 0.05
"""Of a CUDA device's memory: what its context and libraries hold, and what the allocator cannot fit
together."""
SMALL_CHUNK = 128
"""Positions; of fewer the products with the head would be slow."""
PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "loss stage")
UNFORESEEABLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


class Unforeseeable(UserError):
    """A model whose computation depends on its data, as a router of experts may, or fails without them: no
    forecast is possible."""


class DoesNotFit(UserError):
    """No setting makes a step fit."""


@dataclass(frozen=True)
class Settings:
    """What may be chosen without changing the result."""

    micro_batch: int | None = None
    chunk: int | None = None
    keep_logits: bool | None = None
    gradient_checkpointing: bool = False

    @staticmethod
    def of(config: OptimConfig) -> "Settings":
        return Settings(config.micro_batch, config.chunk, config.keep_logits, config.gradient_checkpointing)

    def into(self, config: C) -> C:
        """``config`` with these settings."""
        return replace(config, **vars(self))

    def beyond(self, other: "Settings") -> str:
        """What is set here otherwise than in ``other``, as a user types it."""
        words = [
            f"train.{name}={str(value).lower()}"
            for name, value in vars(self).items()
            if value != getattr(other, name)
        ]
        return " ".join(words)


@dataclass(frozen=True)
class Forecast:
    """One optimiser step, in the one of several processes that has most to do. Bytes are those of tensors:
    `needed` tells what a device needs."""

    settings: Settings
    flops: int
    peak: int
    parts: dict[str, int]
    """At the peak; they add up to it."""
    loss_stage: int
    """The most that the loss stage holds at one time, at the peak or not."""
    gradients: int
    """Of all weights that are trained: they are not all there at every peak."""
    cuda: bool

    @property
    def needed(self) -> int:
        return needed(self.peak) if self.cuda else self.peak

    @property
    def fixed(self) -> int:
        """What no way of taking the step can spare."""
        return self.gradients + sum(self.parts[part] for part in ("weights", "optimizer", "reference"))


def needed(peak: int) -> int:
    """What a CUDA device must have for ``peak`` bytes of tensors."""
    return peak + round(peak * RESERVE_SHARE) + RESERVE_BYTES


@dataclass(frozen=True)
class AsOn(Compute):
    """A CPU that computes as another device would."""

    mixes: bool = False

    @property
    def widens(self) -> bool:
        return self.mixes


# -- one step ------------------------------------------------------------------------------------------------


def forecast(
    lm: LanguageModel,
    groups: Group,
    objective: Objective,
    settings: Settings,
    config: OptimConfig,
    *,
    optimizer: bool = True,
    processes: int = 1,
) -> Forecast:
    """The cost of one step over ``groups``: without ``optimizer``, of its gradient alone. Of ``lm`` only the
    shapes are looked at, its compute and its layout. ``processes`` share the step as ``config.parallel``
    says."""
    world = fake.mode()
    compute = AsOn(torch.device("cpu"), lm.compute.dtype, "", mixes=lm.compute.widens)
    blank = replace(lm, model=fake.twin(lm.model, world), compute=compute)
    if lm.layout.packed and lm.compute.widens:
        attention.install_as_on_cuda(blank.model)
    busiest = max(range(processes), key=lambda k: positions(share_of(groups, k, processes), lm.layout.packed))
    sharded = processes > 1 and config.parallel is Parallel.fsdp
    try:
        with distributed.imagined(processes, busiest):
            return run(
                blank,
                groups,
                objective,
                settings,
                config,
                reference=partial(imagined, groups=groups, objective=objective, world=world),
                optimizer=optimizer,
                world=world,
                sharded=sharded,
            )
    except UNFORESEEABLE as error:
        raise _unforeseeable(lm, f"what it computes depends on its data ({type(error).__name__})") from error
    except (TypeError, ValueError, RuntimeError) as error:  # what code of others makes of shapes alone
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unforeseeable(lm, f"without data it fails: {why}") from error


def _unforeseeable(lm: LanguageModel, why: str) -> Unforeseeable:
    return Unforeseeable(
        f"a step of `{lm.name}` cannot be planned: {why}",
        "training does without a plan; on CUDA metrics.jsonl says of each step what it took (`peak_bytes`)",
    )


def run(
    lm: LanguageModel,
    groups: Group,
    objective: Objective,
    settings: Settings,
    config: OptimConfig,
    *,
    reference: Callable[[LanguageModel], Reference],
    optimizer: bool = True,
    world: FakeTensorMode | None = None,
    sharded: bool = False,
) -> Forecast:
    """Take one step with ``lm``, real or fake, on a CPU, and count. ``reference`` makes what it is told.
    ``world``: that of the fake one. ``sharded``: with its weights in shards."""
    model = lm.model
    checkpoint_activations(model, settings.gradient_checkpointing)
    model.train(config.dropout or settings.gradient_checkpointing)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    # in float32 whatever the moments are held in: torchao's tensors know no shapes without content
    stepped = replace(config, optimizer=OptimizerName.adamw)
    tracker = Tracker(fake.Again(world)) if world else Tracker()
    tracker.watch(model.buffers(), "weights")
    shards = engine = None
    if not sharded:
        engine = Optimizer(model, stepped)
        tracker.watch(model.parameters(), "weights")
        if engine.masters is not engine.weights:
            tracker.watch(list(engine.masters.values()), "optimizer")
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    else:
        tracker.overlook(model.parameters())  # counted as shards, below
    with tracker, tracker.during("reference"):
        remembered = reference(lm)
    if sharded:
        assert world is not None
        stepped = replace(stepped, weights=Weights.float32)  # what is stepped are shards, which are float32
        shards = PlannedShards(
            model,
            world,
            tracker,
            processes=distributed.size(),
            weights=config.weights,
            head=lm.compute.dtype,
        )
        trained //= distributed.size()
    with tracker:
        handles = [*_attribute(lm, tracker), *(shards.hooks() if shards else ())]
        backward(
            lm,
            groups,
            objective,
            reference=remembered,
            micro_batch=settings.micro_batch,
            chunk=settings.chunk,
            keep_logits=settings.keep_logits,
            reduced_elsewhere=sharded,
        )
        for handle in handles:
            handle.remove()
        flops = tracker.flops
        peak, parts, loss_stage = tracker.peak, tracker.at_peak, tracker.most["loss stage"]
        tracker.label = None
        if optimizer:
            if shards:
                engine = Optimizer(shards.after(model), stepped)
            assert engine is not None
            tracker.restart()
            masters = tracker.now.get("optimizer", 0)
            with tracker.during("gradients"):
                engine.take_gradients()
            with tracker.during("optimizer"):
                engine.engine.step()
            # from the second step on it is there all the time
            state = tracker.now.get("optimizer", 0) - masters
            if config.optimizer is OptimizerName.adamw_8bit:
                state //= 4
            peak, parts = peak + state, {**parts, "optimizer": state + masters}
            # on CUDA one kernel does it all, and needs nothing besides
            if tracker.peak > peak and not lm.compute.widens:
                peak, parts = tracker.peak, tracker.at_peak
    if shards and peak < (loaded := shards.whole + shards.held):  # as it comes into each process
        peak, parts = loaded, {"weights": loaded}
    assert set(parts) <= set(PARTS), parts
    return Forecast(
        settings,
        flops,
        peak,
        {part: parts.get(part, 0) for part in PARTS},
        loss_stage,
        trained,
        lm.compute.widens,
    )


def _attribute(lm: LanguageModel, tracker: Tracker) -> Iterator[RemovableHandle]:
    """Let ``tracker`` know what is allocated for what: the trunk, forwards and backwards, or the loss."""
    inside = False

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    def label() -> str:
        in_backward = torch._C._current_graph_task_id() != -1
        return "activations" if inside or in_backward else "loss stage"

    def accumulated(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        tracker.watch([parameter.grad], "gradients")

    tracker.label = label
    yield trunk_of(lm.model).register_forward_pre_hook(enter)
    yield trunk_of(lm.model).register_forward_hook(leave)
    for parameter in lm.model.parameters():
        if parameter.requires_grad:
            yield parameter.register_post_accumulate_grad_hook(accumulated)


def imagined(lm: LanguageModel, *, groups: Group, objective: Objective, world: FakeTensorMode) -> Reference:
    """A reference that says things of the right shapes."""
    needs = objective.needs
    head = operand_head(lm).frozen() if needs.beside_reference else None
    vocabulary, width = lm.model.get_output_embeddings().weight.shape
    sixteen = lm.compute.dtype.itemsize == 2
    states_dtype = lm.compute.dtype if sixteen else torch.promote_types(lm.model.dtype, torch.float32)

    def recall(role: str, at: range) -> Recalled:
        items = [groups[role][i] for i in at]
        size = sum(item.num_targets for item in items)
        states_ND = log_p_S = supported_MK = layer_ND = None
        if role in needs.beside_reference:
            states_ND = fake.empty((size, width), states_dtype, world)
        if role in needs.reference_log_p:
            log_p_S = torch.zeros(len(items), dtype=torch.float64)
        if needs.stored_tokens is not None and role == "forget":
            stored = min(needs.stored_tokens, vocabulary - 1) + 1
            supported_MK = (
                fake.empty((size, stored), torch.int32, world),
                fake.empty((size, stored), torch.float32, world),
            )
        if role in needs.reference_layer:
            hidden = lm.model.config.get_text_config().hidden_size
            layer_ND = fake.empty((size, hidden), torch.bfloat16 if sixteen else states_dtype, world)
        return Recalled(states_ND, log_p_S, supported_MK, layer_ND)

    return Reference(recall, head)


def fine_tuning(
    lm: LanguageModel,
    groups: Group,
    settings: Settings,
    config: OptimConfig,
    *,
    optimizer: bool = True,
    processes: int = 1,
) -> Forecast:
    """The cost of a plain fine-tuning step over the forget and retain items of ``groups`` as one corpus,
    through the same engine, with as many sequences in a forward pass as the two have together."""
    items = [item for role in ("forget", "retain") for item in groups.get(role, ())]
    together = None
    if settings.micro_batch is not None:
        together = settings.micro_batch * sum(role in groups for role in ("forget", "retain"))
    own = replace(settings, micro_batch=together)
    return forecast(lm, {"retain": items}, FINE_TUNING, own, config, optimizer=optimizer, processes=processes)


# -- the choice ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The cheapest way that fits, or none."""

    chosen: Forecast | None
    configured: Forecast
    tried: list[Forecast]
    """In the order of trying."""
    processes: int
    sequences: dict[str, int]
    """Of a step, by role; none where a micro-batch, and so a process's share, is part of the loss."""

    @property
    def nearest(self) -> Forecast:
        return min(self.tried, key=lambda forecast: forecast.needed)


def choose(
    lm: LanguageModel,
    groups: Group,
    objective: Objective,
    config: OptimConfig,
    *,
    limit: int | None,
    processes: int = 1,
    tell: Callable[[str], None] = lambda message: None,
) -> Choice:
    """Try ways to take a step, from the cheapest on, until one needs no more than ``limit`` bytes of each of
    ``processes``; without a limit that is the one that is configured. ``tell`` is told what is tried."""
    tried: list[Forecast] = []
    apart = objective.needs.coupling == "micro"
    sequences = {} if apart else {role: len(items) for role, items in groups.items()}

    def chosen(forecast: Forecast | None) -> Choice:
        return Choice(forecast, configured, tried, processes, sequences)

    def attempt(settings: Settings) -> Forecast:
        tell(f"a step {settings.beyond(first) or 'as configured'}")
        found = forecast(lm, groups, objective, settings, config, processes=processes)
        tried.append(found)
        return found

    first = Settings.of(config)
    configured = attempt(first)
    if limit is None:
        return chosen(configured)
    if configured.needed <= limit:
        with distributed.imagined(processes, 0):
            once = _logits_once(lm, groups, objective, config)
        kept = once and attempt(once)
        return chosen(kept if kept and kept.needed <= limit else configured)
    if configured.fixed > limit:  # no way of taking a step spares that; say how near the leanest comes
        if not first.gradient_checkpointing and lm.model.supports_gradient_checkpointing:
            attempt(replace(first, gradient_checkpointing=True))
        return chosen(None)
    chunk = first.chunk or chunk_for(len(operand_head(lm).weight_VD))
    largest = max(-(-len(items) // processes) for items in groups.values())
    for settings in ways(lm, largest, objective, config):
        if settings != first:
            if _is_hopeless(settings, configured, largest, limit):
                continue
            found = attempt(settings)
            if found.needed <= limit:
                return chosen(found)
        else:
            found = configured
        if chunk > SMALL_CHUNK and found.needed - found.parts["loss stage"] <= limit:
            smaller = attempt(replace(settings, chunk=SMALL_CHUNK))
            if smaller.needed <= limit:
                return chosen(smaller)
    return chosen(None)


def _logits_once(
    lm: LanguageModel, groups: Group, objective: Objective, config: OptimConfig
) -> Settings | None:
    """Cheaper than as configured: with room for the logits of a whole pool they need not be made again."""
    size = logits_bytes(groups, len(operand_head(lm).weight_VD))
    pays = config.memory is Memory.auto and config.keep_logits is None and size > KEPT_BYTES
    pays = pays and objective.needs.holds_logits
    return replace(Settings.of(config), keep_logits=True) if pays else None


def ways(lm: LanguageModel, largest: int, objective: Objective, config: OptimConfig) -> Iterator[Settings]:
    """From the fewest operations to the most, each with its logits in chunks as configured; but for the first
    they are not held. ``largest``: sequences of a role that a process has in a step.

    For a loss that is a sum over sequences smaller micro-batches come first: they cost nothing. One that
    pools over the step has to run twice over the trunk for them, which is a little more than to make
    activations twice.
    """
    first = asked = Settings.of(config)
    if objective.needs.holds_logits and asked.keep_logits is not False:
        asked = replace(asked, keep_logits=False)
    largest = min(asked.micro_batch or largest, largest)
    cuts = dict.fromkeys(math.ceil(largest / 2**k) for k in range(1, largest.bit_length() + 1))
    if objective.needs.coupling == "micro":
        cuts = {}  # there a micro-batch is part of the loss
    cut_up = [replace(asked, micro_batch=cut) for cut in cuts if cut < largest]
    can = lm.model.supports_gradient_checkpointing and not asked.gradient_checkpointing
    again = [replace(asked, gradient_checkpointing=True)] if can else []
    yield from dict.fromkeys((first, asked))
    yield from [*again, *cut_up] if objective.needs.couples else [*cut_up, *again]
    if again:
        yield from (replace(settings, gradient_checkpointing=True) for settings in cut_up)


def _is_hopeless(settings: Settings, configured: Forecast, largest: int, limit: int) -> bool:
    """Whether it is plain without a try that micro-batches of this size are too large."""
    if settings.gradient_checkpointing or settings.micro_batch is None:
        return False
    whole = min(configured.settings.micro_batch or largest, largest)
    left = 0.8 * settings.micro_batch / whole  # of one whose sequences are short
    spared = configured.parts["activations"] * (1 - min(1.0, left)) + configured.parts["loss stage"]
    return configured.needed - spared > limit


def require(choice: Choice, config: OptimConfig, *, limit: int) -> None:
    """Refuse what does not fit; with what would, where the settings are not to be changed."""
    first, chosen = Settings.of(config), choice.chosen
    if chosen is None:
        raise _refusal(choice, config, limit=limit)
    if config.memory is not Memory.auto and chosen.settings != first:
        shared = _more_processes(choice, choice.configured, config)
        fitting = [f"`{more}` about {size(need)}" for more, need in shared.items() if need <= limit][:1]
        raise DoesNotFit(
            f"a step as configured needs {size(choice.configured.needed)}, more than {size(limit)}",
            "; ".join(
                [
                    f"`{chosen.settings.beyond(first)}` needs {size(chosen.needed)}",
                    *fitting,
                    "`train.memory=auto` chooses by itself",
                ]
            ),
        )


def _refusal(choice: Choice, config: OptimConfig, *, limit: int) -> DoesNotFit:
    """Where nothing fits: what came nearest, and what would change more than the way of taking a step."""
    near = choice.nearest
    asked = near.settings.beyond(Settings.of(config))
    needed, optimizer = near.needed, near.parts["optimizer"]
    adapters = needed - near.parts["gradients"] - optimizer
    ways = {}
    sharded = choice.processes > 1 and config.parallel is Parallel.fsdp
    if near.gradients >= near.parts["weights"] // 2:  # all weights are trained
        ways = {
            "model.lora.rank=16": adapters,
            "model.lora.rank=16 train.weights=bfloat16": adapters - near.parts["weights"] // 2,
        }
    if not sharded and config.optimizer is not OptimizerName.adamw_8bit:
        ways = {"train.optimizer=adamw_8bit": needed - optimizer * 3 // 4, **ways}
    ways |= _more_processes(choice, near, config)
    ways = ways or {"a model with fewer parameters": near.fixed}
    fitting = {setting: need for setting, need in ways.items() if need <= limit}
    shown = fitting or dict([min(ways.items(), key=lambda way: way[1])])
    return DoesNotFit(
        f"a step does not fit {size(limit)}: "
        + (f"with `{asked}` it still needs {size(needed)}" if asked else f"it needs {size(needed)}")
        + (f", {size(near.fixed)} of it whatever the batch" if near.fixed > limit else ""),
        f"{f'with `{asked}` ' if asked else ''}about: "
        + "; ".join(f"`{setting}` {size(need)}" for setting, need in list(shown.items())[:3]),
    )


def _more_processes(choice: Choice, near: Forecast, config: OptimConfig) -> dict[str, int]:
    """What each of so many processes would need, about: of sequences its share, and with shards of weights,
    gradients and optimiser states as well. Only of so many as have equal shares."""
    now, sharded = choice.processes, choice.processes > 1 and config.parallel is Parallel.fsdp
    if not choice.sequences:
        return {}
    cut = sum(near.parts[part] for part in ("weights", "gradients", "optimizer"))
    found = {}
    for processes in (now * 2**k for k in range(4)):
        if any(count % processes for count in choice.sequences.values()):
            continue
        at_once, share = (max(count // n for count in choice.sequences.values()) for n in (now, processes))
        at_once = min(near.settings.micro_batch or at_once, at_once)
        spared = round(near.parts["activations"] * (1 - min(1.0, share / at_once)))
        in_shards = near.needed - spared - round(cut * (1 - (now if sharded else 1) / processes))
        if processes > now and not sharded and spared:
            found[f"--nproc {processes}"] = near.needed - spared
        if processes > now or (processes > 1 and not sharded):
            found[f"--nproc {processes} train.parallel=fsdp"] = in_shards
    return found


def reason(choice: Choice, *, limit: int | None) -> str:
    """Why the chosen way was chosen, for the log."""
    chosen, configured = choice.chosen, choice.configured
    assert chosen is not None
    if limit is None:
        return f"{size(chosen.needed)}, no limit"
    why = "fits"
    if chosen.needed > configured.needed:
        why = "logits are made once: there is room for them"
    elif chosen is not configured:
        more = chosen.flops / configured.flops - 1
        why = f"as configured it is {size(configured.needed)}; {more:.0%} more operations"
    return f"{size(chosen.needed)} of {size(limit)}: {why}"


def describe(choice: Choice, config: OptimConfig, *, limit: int) -> str:
    """One line for the log: what was chosen, and why."""
    assert choice.chosen is not None
    change = choice.chosen.settings.beyond(Settings.of(config)) or "as configured"
    return f"{change} ({reason(choice, limit=limit)})"


# -- which step ----------------------------------------------------------------------------------------------

STEPS_LOOKED_AT = 1000


def heaviest(items_at: Callable[[int], Group], steps: int, *, packed: bool) -> Group:
    """The step with the most positions; of many steps so many evenly spaced ones are looked at."""
    return max((items_at(step) for step in some_of(steps)), key=lambda groups: positions(groups, packed))


def some_of(steps: int) -> range:
    return range(0, steps, max(1, steps // STEPS_LOOKED_AT))


def share_of(groups: Group, process: int, processes: int) -> Group:
    """What of a step falls to one of ``processes``."""
    return {
        role: [items[i] for i in distributed.share(len(items), of=process, processes=processes)]
        for role, items in groups.items()
    }


def positions(groups: Group, packed: bool) -> int:
    """That the trunk computes: the tokens, and the padding where they are not ``packed``."""
    if packed:
        return tokens(groups)
    return sum(len(items) * max(len(item.input_ids) for item in items) for items in groups.values() if items)


def tokens(groups: Group) -> int:
    return sum(len(item.input_ids) for items in groups.values() for item in items)
