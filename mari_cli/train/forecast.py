"""What a step will cost, before any step: the real step, run once on a model without content.

Floating-point operations, and the most memory alive at one time, by what it is for.
"""

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
from mari_cli.config import OptimConfig, OptimizerName, Parallel, Weights
from mari_cli.errors import UserError, first_line
from mari_cli.lm_head import backbone_of
from mari_cli.losses.objective import FINE_TUNING, Objective
from mari_cli.measure import fake
from mari_cli.measure.memory import MemoryTracker
from mari_cli.models import attention
from mari_cli.models.device import Compute
from mari_cli.models.load import LanguageModel, checkpoint_activations
from mari_cli.train.optim import Optimizer
from mari_cli.train.sharding_planned import PlannedShards
from mari_cli.train.step import Group, Recalled, Reference, backward, operand_head
from mari_cli.train.workload import count_positions, share_of_step

C = TypeVar("C", bound=OptimConfig)

GIB = 2**30
RESERVE_BYTES, RESERVE_SHARE = 1 * GIB, 0.05
"""Of a CUDA device's memory: what its context and libraries hold, and what the allocator cannot fit
together."""
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
        return " ".join(
            f"train.{name}={str(value).lower()}"
            for name, value in vars(self).items()
            if value != getattr(other, name)
        )


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
        """What a device must have: a CUDA device needs more than the tensors themselves."""
        return self.peak + round(self.peak * RESERVE_SHARE) + RESERVE_BYTES if self.cuda else self.peak

    @property
    def fixed(self) -> int:
        """What no way of taking the step can spare."""
        return self.gradients + sum(self.parts[part] for part in ("weights", "optimizer", "reference"))


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
    compute = Compute(torch.device("cpu"), lm.compute.dtype, "", as_on_cuda=lm.compute.widens)
    blank = replace(lm, model=fake.twin(lm.model, world), compute=compute)
    if lm.layout.packed and lm.compute.widens:
        attention.install(blank.model, as_on_cuda=True)
    shares = [share_of_step(groups, k, processes) for k in range(processes)]
    busiest = max(range(processes), key=lambda k: count_positions(shares[k], lm.layout.packed))
    sharded = processes > 1 and config.parallel is Parallel.fsdp
    try:
        with distributed.simulate_rank(processes, busiest):
            return count_step(
                blank,
                groups,
                objective,
                settings,
                config,
                reference=partial(fake_reference, groups=groups, objective=objective, world=world),
                optimizer=optimizer,
                world=world,
                sharded=sharded,
            )
    except UNFORESEEABLE as error:
        raise _unforeseeable(lm, f"what it computes depends on its data ({type(error).__name__})") from error
    except (TypeError, ValueError, RuntimeError) as error:  # what code of others makes of shapes alone
        raise _unforeseeable(lm, f"without data it fails: {first_line(error)}") from error


def _unforeseeable(lm: LanguageModel, why: str) -> Unforeseeable:
    return Unforeseeable(
        f"a step of `{lm.name}` cannot be planned: {why}",
        "training does without a plan; on CUDA metrics.jsonl says of each step what it took (`peak_bytes`)",
    )


def count_step(
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
    tracker = MemoryTracker(fake.Again(world)) if world else MemoryTracker()
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
            model, world, tracker, processes=distributed.size(), weights=config.weights, head=lm.compute.dtype
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


def _attribute(lm: LanguageModel, tracker: MemoryTracker) -> Iterator[RemovableHandle]:
    """Let ``tracker`` know what is allocated for what: the backbone, forwards and backwards, or the loss."""
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
    yield backbone_of(lm.model).register_forward_pre_hook(enter)
    yield backbone_of(lm.model).register_forward_hook(leave)
    for parameter in lm.model.parameters():
        if parameter.requires_grad:
            yield parameter.register_post_accumulate_grad_hook(accumulated)


def fake_reference(
    lm: LanguageModel, *, groups: Group, objective: Objective, world: FakeTensorMode
) -> Reference:
    """A reference that says things of the right shapes."""
    needs = objective.needs
    head = operand_head(lm).frozen() if needs.beside_reference else None
    vocabulary, width = lm.model.get_output_embeddings().weight.shape
    sixteen = lm.compute.dtype.itemsize == 2
    states_dtype = lm.compute.dtype if sixteen else torch.promote_types(lm.model.dtype, torch.float32)

    def make(role: str, at: range) -> Recalled:
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

    return Reference(make, head)


def forecast_fine_tuning(
    lm: LanguageModel, groups: Group, settings: Settings, config: OptimConfig, *, processes: int = 1
) -> Forecast:
    """The cost of a plain fine-tuning step over the forget and retain items of ``groups`` as one corpus,
    through the same engine, with as many sequences in a forward pass as the two have together."""
    items = [item for role in ("forget", "retain") for item in groups.get(role, ())]
    together = None
    if settings.micro_batch is not None:
        together = settings.micro_batch * sum(role in groups for role in ("forget", "retain"))
    own = replace(settings, micro_batch=together)
    return forecast(lm, {"retain": items}, FINE_TUNING, own, config, processes=processes)
