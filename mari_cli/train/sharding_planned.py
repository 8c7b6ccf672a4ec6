"""What weights in shards take in one process, on a model without content: what train/sharding.py does of it.

The step runs as in one process, over whole weights that are not counted. Counted in their place are shards,
and what torch's FSDP2 makes of them and when. A unit's weights are gathered into one stretch and copied out
of it: whole from its forward to the end of that, and from the gradient at its output to the last of its own.
The stretch stays until the next unit is gathered; on the way back that of the unit before is there already.
Its gradients are whole until they are laid into a stretch to be reduced, which stays until the next one's
are. The head is gathered for the whole of a step.

Shapes: V vocabulary, D hidden size.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from mari_cli.config import Weights
from mari_cli.lm_head import backbone_of
from mari_cli.measure import fake
from mari_cli.measure.memory import MemoryTracker
from mari_cli.train.sharding import units_of


class _Unit:
    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        self.module, self.parameters = module, parameters
        self.trained = [p for p in parameters if p.requires_grad]
        self.whole: list[Tensor] = []
        """While it is gathered."""
        self.stretch: Tensor | None = None
        """Gathered ahead, and not copied out yet."""
        self.waits_for = 0
        """Gradients, until they are reduced."""


class PlannedShards:
    """The shards of one of ``processes``, counted by ``tracker`` from now on; `hooks` has them gathered."""

    def __init__(
        self,
        model: PreTrainedModel,
        world: FakeTensorMode,
        tracker: MemoryTracker,
        *,
        processes: int,
        weights: Weights,
        head: torch.dtype,
    ) -> None:
        """``weights``: what the model computes with; ``head``: the dtype of the head's operands."""
        self.world, self.tracker, self.processes = world, tracker, processes
        self.gathered = torch.bfloat16 if weights is Weights.bfloat16 else torch.float32
        self.shards: dict[str, nn.Parameter] = {}
        """By name."""
        self.gradients: dict[str, Tensor] = {}
        """Of shards, by name; some share what they lie in."""
        self.whole = sum(p.numel() * p.element_size() for p in model.parameters())
        """Bytes of all weights."""
        self.backbone = backbone_of(model)
        self.last_gathered: Tensor | None = None
        self.last_reduced: Tensor | None = None
        self.names = {id(p): name for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            shard = nn.Parameter(self._new(self._cut(parameter), torch.float32), parameter.requires_grad)
            tracker.watch([shard], "weights")
            self.shards[name] = shard
        self.held = sum(shard.nbytes for shard in self.shards.values())
        """Bytes of the shards."""
        seen: set[int] = set()
        self.units = []
        head_layer: Any = model.get_output_embeddings()
        for module in units_of(model):
            if module is head_layer:  # never called as a module
                continue
            own = [p for p in module.parameters() if id(p) not in seen]
            seen |= {id(p) for p in own}
            self.units.append(_Unit(module, own))
        self._gather_head(model, head)
        for parameter in model.parameters():
            if parameter is not self.head:
                parameter.data = parameter.data.to(self.gathered)
                tracker.overlook([parameter])

    def _cut(self, parameter: Tensor) -> tuple[int, ...]:
        """The largest of its shards, cut along its first dimension."""
        rows, *rest = parameter.shape or (1,)
        return (-(-rows // self.processes), *rest)

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype, part: str | None = None) -> Tensor:
        if part is None:
            return fake.empty(shape, dtype, self.world)
        with self.tracker.during(part):
            new = fake.empty(shape, dtype, self.world)
            self.tracker.watch([new], part)
        return new

    def _gather_head(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """A step gathers it apart, tied or not, in the dtype of its operands, as long as it lasts."""
        layer: Any = model.get_output_embeddings()
        self.head_name = self.names[id(layer.weight)]
        shape, trained = tuple(layer.weight.shape), layer.weight.requires_grad
        # where it is not trained the model keeps it whole besides, for the reference
        self.kept = None if trained else self._new(shape, torch.float32, "weights")
        self.head: nn.Parameter | None = nn.Parameter(self._new(shape, dtype), trained)
        layer.weight = self.head
        # of the whole shape, where its gradient comes: it takes no memory
        self.at: Tensor = fake.empty((), torch.float32, self.world).expand(shape).requires_grad_(trained)
        layer.weight.gradient_at = self.at

    def hooks(self) -> Iterator[RemovableHandle]:
        """On the model; to be called where a step begins."""
        assert self.head is not None
        for unit in self.units:
            yield from self._unit_hooks(unit)
        self.tracker.watch([self.head], "weights")
        if self.head.requires_grad:
            yield self.at.register_post_accumulate_grad_hook(self._reduce_head)

    def _unit_hooks(self, unit: _Unit) -> Iterator[RemovableHandle]:
        def before(module: nn.Module, args: Any) -> None:
            self._gather(unit)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            state: Any = getattr(first, "last_hidden_state", first)
            if state.requires_grad:
                state.register_hook(lambda _: self._come_back(unit))
            if not _in_backward():
                unit.whole.clear()
                if unit.module is self.backbone:
                    self.last_gathered = None

        def accumulated(parameter: Tensor) -> None:
            unit.waits_for -= 1
            if unit.waits_for == 0 and unit.module is not self.backbone:
                self._reduce(unit)

        yield unit.module.register_forward_pre_hook(before)
        yield unit.module.register_forward_hook(after)
        for parameter in unit.trained:
            yield parameter.register_post_accumulate_grad_hook(accumulated)

    def _gather(self, unit: _Unit) -> None:
        if unit.whole:
            return
        stretch = self._stretch(unit) if unit.stretch is None else unit.stretch
        unit.stretch = self.last_gathered = None
        unit.whole = [self._new((size,), self.gathered, "weights") for size in self._sizes(unit.parameters)]
        if not _in_backward():
            self.last_gathered = stretch

    def _sizes(self, parameters: list[nn.Parameter]) -> list[int]:
        return [math.prod(self._cut(p)) * self.processes for p in parameters]

    def _stretch(self, unit: _Unit) -> Tensor:
        return self._new((sum(self._sizes(unit.parameters)),), self.gathered, "weights")

    def _come_back(self, unit: _Unit) -> None:
        """A gradient has come to the output of ``unit``."""
        self._gather(unit)
        at = self.units.index(unit)
        if at > 0:
            self.units[at - 1].stretch = self._stretch(self.units[at - 1])
        unit.waits_for = len(unit.trained)
        if unit.module is self.backbone:  # it is through when everything is
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._end(unit))

    def _end(self, root: _Unit) -> None:
        for unit in self.units:  # those of which nothing is trained, and what is left
            if unit.whole:
                unit.whole.clear()
        self._reduce(root)
        self.last_reduced = None

    def _reduce(self, unit: _Unit) -> None:
        there = [p for p in unit.trained if p.grad is not None]
        unit.whole.clear()
        if not there:
            return
        size = sum(self._sizes(there))
        self.last_reduced = None
        self.last_reduced = self._new((size,), torch.float32, "gradients")
        for parameter in there:
            parameter.grad = None
        reduced = self._new((size // self.processes,), torch.float32, "gradients")
        for parameter in there:
            self.gradients.setdefault(self.names[id(parameter)], reduced)

    def _reduce_head(self, at: Tensor) -> None:
        assert at.grad is not None
        self.tracker.watch([at.grad], "gradients")
        shape = self._cut(at)
        reduced_from = [at.grad]
        if shape[0] * self.processes != len(at):  # into equal parts only with padding
            reduced_from.append(self._new((shape[0] * self.processes, *shape[1:]), at.dtype, "gradients"))
        reduced = self._new(shape, at.dtype, "gradients")
        reduced_from.clear()
        at.grad = None
        self.gradients.setdefault(self.head_name, reduced)

    def after(self, model: PreTrainedModel) -> nn.Module:
        """What the optimiser steps, with its gradients, when a step is over and nothing is gathered."""
        layer: Any = model.get_output_embeddings()
        layer.weight = self.head = None
        self.gradients.clear()
        for shard in self.shards.values():
            if shard.requires_grad:
                shard.grad = self._new(tuple(shard.shape), torch.float32, "gradients")
        return nn.ParameterList(self.shards.values())


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
