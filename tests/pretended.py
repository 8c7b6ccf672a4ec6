"""A GPU that is only said to be there: whether a command mixes the CPU's tensors with the device's.

All numbers are made on the CPU. What was moved to the pretended GPU, and what was computed from it, is known
by its storage; an operator that is given tensors of both is refused, as CUDA refuses it, and so is NumPy's
view of one. Between the two go `copy_` and `to`; a number without dimensions goes with either, and an index
on the CPU with a tensor on the GPU.

Two modes of torch do it: one sees what Python asks (`.to("cuda")`, `.device`, `torch.zeros(…, device=…)`),
the other every operator, those of a backward pass among them.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mari_cli.losses import fused
from mari_cli.models import attention

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
GIB = 2**30


class DeviceMismatch(BaseException):
    """Tensors of the CPU and of the pretended GPU in one operator."""


class _Storages:
    """Those on the pretended GPU."""

    def __init__(self) -> None:
        self.there: dict[int, Any] = {}
        self.inside = False
        """Whether what is being done was asked of a tensor there: what it makes on the way is there too."""

    @contextmanager
    def asked(self, *given: Any) -> Iterator[None]:
        before = self.inside
        self.inside = any(isinstance(x, Tensor) and self.hold(x) for x in tree_leaves(given))
        try:
            yield
        finally:
            self.inside = before

    def take(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.there:
            self.there[key] = weakref.ref(storage, lambda _: self.there.pop(key, None))
        return tensor

    def hold(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self.there


BETWEEN = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor, aten.set_.source_Storage}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
WHOLE = {aten.cat.default, aten.stack.default, aten.scatter_add_.default, aten.index_add.default}
"""Operators for which a number without dimensions is a tensor like any other."""


def _writes(func: Any) -> bool:
    first = func._schema.arguments[0].alias_info
    return first is not None and first.is_write


class _Operators(TorchDispatchMode):
    def __init__(self, gpu: _Storages) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in given if self.gpu.hold(x)]
        if there and func not in BETWEEN:
            self._refuse(func, args, kwargs, given, there)
        out = func(*args, **kwargs)
        moved = self.gpu.inside if not given else there and (func not in BETWEEN or self.gpu.hold(args[0]))
        if moved:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                    self.gpu.take(leaf)
        return out

    def _refuse(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], there: list[Tensor]) -> None:
        alike = func in WHOLE or (
            isinstance(args[0], Tensor) and _writes(func) and not self.gpu.hold(args[0])
        )
        here = [x for x in given if x.device.type == "cpu" and (x.dim() or alike) and not self.gpu.hold(x)]
        if func in INDEXED and self.gpu.hold(args[0]):
            indices = {id(x) for x in args[1] if isinstance(x, Tensor)}
            here = [x for x in here if id(x) not in indices]
        if here:
            shapes = [(tuple(x.shape), "cuda" if self.gpu.hold(x) else "cpu") for x in given]
            raise DeviceMismatch(f"{func} of {shapes}")
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise DeviceMismatch(f"{func} on cuda draws from a generator of the CPU")


class _Requests(TorchFunctionMode):
    def __init__(self, gpu: _Storages) -> None:
        super().__init__()
        self.gpu = gpu
        self.answers = {
            Tensor.device.__get__: lambda x: GPU if gpu.hold(x) else x.device,
            Tensor.is_cuda.__get__: gpu.hold,
            Tensor.is_cpu.__get__: lambda x: x.is_cpu and not gpu.hold(x),
            Tensor.get_device: lambda x: 0 if gpu.hold(x) else -1,
            Tensor.to: self._to,
            Tensor.cuda: lambda x, *_, **__: self._to(x, GPU),
            Tensor.cpu: lambda x, *_, **__: self._to(x, CPU),
            Tensor.pin_memory: lambda x, *_: x,
            Tensor.is_pinned: lambda x, *_: False,
            Tensor.numpy: self._numpy,
            Tensor.__array__: self._numpy,
            Tensor.__deepcopy__: self._deepcopy,
            Tensor.backward: lambda x, gradient=None, **kwargs: torch.autograd.backward(
                x, gradient, **kwargs
            ),
            torch.mm: self._mm,
            torch.addmm: self._addmm,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        try:
            answer = self.answers.get(func)
        except TypeError:  # not hashable
            answer = None
        if answer is not None:
            return answer(*args, **kwargs)
        if (device := kwargs.get("device")) is None:
            with self.gpu.asked(args, kwargs):
                return func(*args, **kwargs)
        kind = "cuda" if isinstance(device, int) else torch.device(device).type
        if kind not in ("cuda", "cpu"):
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if kind == "cuda" and generator is not None and generator.device.type == "cpu":
            raise DeviceMismatch(f"{func} on cuda draws from a generator of the CPU")
        del kwargs["device"]
        made = func(*args, **kwargs)
        return self._put(made, GPU if kind == "cuda" else CPU) if isinstance(made, Tensor) else made

    def _put(self, tensor: Tensor, device: torch.device) -> Tensor:
        """``tensor`` there: itself, where it is already."""
        if tensor.device.type != "cpu" or self.gpu.hold(tensor) == (device.type == "cuda"):
            return tensor
        with _unwatched():
            moved = tensor.clone()
        return self.gpu.take(moved) if device.type == "cuda" else moved

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        if (args and isinstance(args[0], Tensor)) or "other" in kwargs:
            other = kwargs.pop("other") if "other" in kwargs else args[0]
            device, dtype, memory_format = GPU if self.gpu.hold(other) else other.device, other.dtype, None
        else:
            device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if (device is not None and device.type not in ("cuda", "cpu")) or tensor.device.type != "cpu":
            return tensor.to(device=device, dtype=dtype or tensor.dtype, copy=copy)
        layout = {} if memory_format is None else {"memory_format": memory_format}
        made = tensor.to(dtype or tensor.dtype, copy=copy, **layout)
        return made if device is None else self._put(made, device)

    def _numpy(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.gpu.hold(tensor):
            raise DeviceMismatch("NumPy's view of a tensor on cuda")
        return tensor.numpy(*args, **kwargs)

    def _deepcopy(self, tensor: Tensor, memo: Any) -> Tensor:
        made = tensor.__deepcopy__(memo)
        return self.gpu.take(made) if self.gpu.hold(tensor) else made

    def _addmm(self, added: Tensor, a: Tensor, b: Tensor, *, out_dtype: Any = None, **kwargs: Any) -> Tensor:
        if out_dtype is None:
            return torch.addmm(added, a, b, **kwargs)
        out = kwargs["out"]
        if not a.dtype == b.dtype != out_dtype == added.dtype == out.dtype == torch.float32:
            raise TypeError("CUDA adds products of 16 bits to float32")
        return out.copy_(added + a.to(out_dtype) @ b.to(out_dtype))

    def _mm(self, a: Tensor, b: Tensor, out_dtype: Any = None) -> Tensor:
        return torch.mm(a, b) if out_dtype is None else torch.mm(a.to(out_dtype), b.to(out_dtype))


@contextmanager
def _unwatched() -> Iterator[None]:
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield


class _Work:
    """A stream or an event: all that was asked of the device is done."""

    def record(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...


def _varlen(q, k, v, begin, _, longest, __, *, scale=None, window_size=(-1, 0), enable_gqa=False):  # type: ignore[no-untyped-def]
    """torch's attention over documents, one after another."""
    ends = begin.tolist()
    outputs = []
    for first, last in pairwise(ends):
        part = [x[first:last].transpose(0, 1) for x in (q, k, v)]
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                *part, is_causal=True, scale=scale, enable_gqa=enable_gqa
            ).transpose(0, 1)
        )
    return torch.cat(outputs)


@contextmanager
def gpu(capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """As if there was a GPU of that generation."""
    storages, stream = _Storages(), _Work()
    autocast = torch.autocast.__init__

    def on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "a pretended GPU",
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: SimpleNamespace(name="a pretended GPU", total_memory=80 * GIB),
        "mem_get_info": lambda *_: (64 * GIB, 80 * GIB),
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: GIB,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "Event": _Work,
        "current_stream": lambda *_: stream,
        "stream": lambda _: nullcontext(),
    }
    patches = [mock.patch.object(torch.cuda, name, answer) for name, answer in answers.items()]
    patches += [
        mock.patch.object(torch.autocast, "__init__", on_cpu),
        *(mock.patch.object(torch, name, _of_cpu(getattr(torch, name))) for name in AUTOCAST),
        mock.patch.dict(  # which asks for devices where nobody hears it
            torch.utils.checkpoint._allowed_determinism_checks_to_fns,
            {"default": lambda x: {"shape": x.shape, "dtype": x.dtype}},
        ),
        mock.patch.object(torch.autograd, "_engine_run_backward", _backwards(storages)),
        mock.patch.object(fused, "obstacle", return_value="the GPU is pretended"),
        mock.patch.object(attention, "varlen_attn", _varlen),
    ]
    requests = _Requests(storages)

    class Recomputation(torch.utils.checkpoint._recomputation_hook):
        """The engine of autograd calls back without the mode that sees what Python asks."""

        def __enter__(self) -> None:
            requests.__enter__()
            super().__enter__()

        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            requests.__exit__(*error)

    patches.append(mock.patch.object(torch.utils.checkpoint, "_recomputation_hook", Recomputation))
    with _all(patches), _Operators(storages), requests:
        yield


AUTOCAST = ("is_autocast_enabled", "get_autocast_dtype")


def _of_cpu(ask: Callable[..., Any]) -> Callable[..., Any]:
    """What is asked of autocast on cuda, asked of the one on the CPU that stands for it."""
    return lambda *kind: ask(*("cpu" if k == "cuda" else k for k in kind))


def _backwards(storages: _Storages) -> Callable[..., Any]:
    run = torch.autograd._engine_run_backward

    def with_device(outputs: Any, gradients: Any, *args: Any, **kwargs: Any) -> Any:
        for output, gradient in zip(outputs, gradients, strict=True):
            if isinstance(gradient, Tensor) and storages.hold(output) != storages.hold(gradient):
                raise DeviceMismatch("a tensor and its gradient")
        with storages.asked(outputs):
            return run(outputs, gradients, *args, **kwargs)

    return with_device


@contextmanager
def _all(patches: list[Any]) -> Iterator[None]:
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
