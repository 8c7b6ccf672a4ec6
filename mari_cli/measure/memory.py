"""Bytes of tensors that are alive at the same time, by their use.

A dispatch mode sees every tensor that an operator returns, and counts its storage until it is freed. Real and
fake tensors are counted in the same way, so a forecast can be compared with a measurement.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mari_cli.measure.flops import operations

aten = torch.ops.aten
WHERE = torch.ops.prim.device.default
"""The operator that reads the device of a fake tensor. It comes often and allocates nothing."""


Call = Callable[[Any, Any, Any], Any]
"""A function that calls an operator, given the operator, its arguments and its keyword arguments."""


@dataclass
class _Alive:
    reference: "weakref.ref[Any]"
    bytes: int
    part: str


class MemoryTracker(TorchDispatchMode):
    """Counts the memory that is allocated between `__enter__` and `__exit__`, and the tensors of `watch`."""

    def __init__(self, call: Call = lambda func, args, kwargs: func(*args, **kwargs)) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.call = call
        self.part = "other"
        """The use of memory that is allocated now."""
        self.label: Callable[[], str] | None = None
        """If set, this function gives the use in place of `part`."""
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        """The peak of each part, in bytes; the parts may have their peaks at different times."""
        self.flops = 0
        """Floating-point operations so far."""
        self.total = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._alive: dict[int, _Alive] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is WHERE:
            return func(*args)
        if func.overloadpacket is aten.logsumexp:  # holds exp(x - max), on every device (ReduceOps.cpp)
            scratch = args[0].numel() * args[0].element_size()
            self._add(self._label(), scratch)
            self._add(self._label(), -scratch)
        out = self.call(func, args, kwargs or {})
        self.flops += operations(func, args, kwargs or {}, out)
        part: str | None = None
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                part = part or self._label()
                self._add_tensor(leaf, part)
        return out

    def watch(self, tensors: Iterable[Tensor], part: str) -> None:
        """Count ``tensors``, which exist already, as ``part``, also if they were counted as another part."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if (alive := self._alive.get(key)) is not None:
                self._add(alive.part, -alive.bytes)
                self._add(part, alive.bytes)
                alive.part = part
            else:
                self._add_tensor(tensor, part)

    def overlook(self, tensors: Iterable[Tensor]) -> None:
        """Do not count ``tensors`` and their views."""
        for tensor in tensors:
            self._add_tensor(tensor, self.part, size=0)

    def restart(self) -> None:
        """Forget the peak so far, and look for a new one."""
        self.peak, self.at_peak, self.most = self.total, dict(self.now), dict(self.now)

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Inside, count allocated memory as ``part``, even if `label` is set."""
        before = self.part, self.label
        self.part, self.label = part, None
        try:
            yield
        finally:
            self.part, self.label = before

    def _label(self) -> str:
        return self.label() if self.label else self.part

    def _add_tensor(self, tensor: Tensor, part: str, *, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes() if size is None else size
        self._alive[key] = _Alive(weakref.ref(storage, lambda _: self._forget(key)), size, part)
        self._add(part, size)

    def _forget(self, key: int) -> None:
        alive = self._alive.pop(key)
        self._add(alive.part, -alive.bytes)

    def _add(self, part: str, size: int) -> None:
        now = self.now[part] = self.now.get(part, 0) + size
        self.most[part] = max(now, self.most.get(part, 0))
        self.total += size
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, {name: size for name, size in self.now.items() if size}
