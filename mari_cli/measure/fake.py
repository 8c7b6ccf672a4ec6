"""Models with fake tensors, which have a shape, a type and a device, but no content.

Such a model runs outside torch's fake mode: an operator with a fake argument returns fake tensors, and all
other operators, for example on indices on the CPU, compute real values.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

M = TypeVar("M", bound=torch.nn.Module)

CPU = torch.device("cpu")


def mode() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def empty(shape: Iterable[int], dtype: torch.dtype, world: FakeTensorMode) -> Tensor:
    with world:
        return torch.empty(tuple(shape), dtype=dtype)


def twin(model: M, world: FakeTensorMode | torch.device) -> M:
    """A copy of ``model`` with tensors of ``world``: fake ones on a CPU, or those of the device `meta`. The
    tensors of ``model`` may be on any device."""
    fakes: dict[int, object] = {}
    with world:
        for tensor in [*model.parameters(), *model.buffers()]:
            if id(tensor) in fakes:
                continue
            fake = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            fakes[id(tensor)] = (
                torch.nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
            )
    return copy.deepcopy(model, fakes)  # the memo holds the fakes, so no weight is copied


# -- remembered results --------------------------------------------------------------------------------------

PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def _grouped_product(
    a: Tensor,
    b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The product of tokens [S, K] with experts [E, K, N], and the products for the gradients of both. torch
    computes these products in any type, but makes their fake results in bfloat16 only."""
    if type(a) is not FakeTensor:
        product: Tensor = torch.ops.aten._grouped_mm.default(a, b, offs, bias, out_dtype)
        return product
    experts = [len(offs)] if a.dim() == b.dim() == 2 and offs is not None else []
    if a.dim() == b.dim() == 3:
        experts = [len(a)]
    return a.new_empty([*experts, a.shape[-2], b.shape[-1]], dtype=out_dtype or a.dtype)


@dataclass(frozen=True)
class Made:
    """The description of a tensor that an operator returned."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    further: int | None = None
    """For a view, the distance of its first entry from the first entry of its base; None for a new tensor."""


class Again:
    """Calls operators on tensors of ``world``, and remembers their results by operator and shapes, because a
    step makes a few hundred different calls tens of thousands of times.

    torch has such a cache, too, but its look-up takes several times as long. Operators on scalar tensors, or
    on real tensors only, are called without the cache. What is remembered holds no tensor, so that all worlds
    of a process share it: the ways to take a step differ in few of their calls.
    """

    kinds: ClassVar[dict[Any, "_Kind | None"]] = {}
    """The kind of each operator; None for an operator whose results are not remembered."""
    known: ClassVar[dict[Any, Made | list[Made | None] | None]] = {}
    """The results by operator and arguments: one tensor or several; None: not to be remembered."""

    def __init__(self, world: FakeTensorMode) -> None:
        self.world = world

    def __call__(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func not in self.kinds:
            self.kinds[func] = _kind_of(func)
        kind = self.kinds[func]
        about = None if kind is None else _signature(args, kwargs)
        call = _grouped_product if func is torch.ops.aten._grouped_mm.default else func
        if kind is None or about is None or (kind.of is not None and type(args[kind.of]) is not FakeTensor):
            return call(*args, **kwargs)
        key = func, torch.get_default_dtype(), about
        if key not in self.known:
            out = call(*args, **kwargs)
            given = (*args, *kwargs.values())
            if kind.of is None:
                self.known[key] = _describe_new(out, given)
            elif kind.writes:
                self.known[key] = []
            else:
                self.known[key] = _describe_view(out, args[kind.of])
            return out
        known = self.known[key]
        if known is None:
            return func(*args, **kwargs)
        if kind.of is not None:
            return args[kind.of] if kind.writes else self._make(known, args[kind.of])
        if isinstance(known, Made):
            return self._make(known)
        made = [None if one is None else self._make(one) for one in known]
        return made if kind.lists else tuple(made)

    def _make(self, like: Any, base: Tensor | None = None) -> Tensor:
        if base is None:
            content = torch.empty_strided(like.size, like.stride, dtype=like.dtype, device="meta")
        else:
            content = torch.empty(0, dtype=like.dtype, device="meta")
            begin = base.storage_offset() + like.further
            content.set_(base.untyped_storage(), begin, like.size, like.stride)
        return FakeTensor(self.world, content, CPU)


@dataclass(frozen=True)
class _Kind:
    """The kind of an operator's result."""

    of: int | None = None
    """The number of the argument that the operator returns, or of which it returns a view; None: neither."""
    writes: bool = False
    """Whether the operator overwrites and returns that argument."""
    lists: bool = False
    """Whether the operator returns several tensors as a list."""


def _kind_of(func: Any) -> _Kind | None:
    schema = func._schema
    if torch.Tag.inplace_view in func.tags or not schema.returns:
        return None
    shared = [i for i, argument in enumerate(schema.arguments) if argument.alias_info is not None]
    first = schema.returns[0]
    lists = first.type.kind() == "ListType"
    if not shared:
        return _Kind(lists=lists)
    if len(shared) > 1 or len(schema.returns) > 1 or lists or first.alias_info is None:
        return None
    if schema.arguments[shared[0]].kwarg_only:
        return None
    return _Kind(shared[0], writes=first.alias_info.is_write)


def _signature(args: Any, kwargs: Any) -> tuple[Any, ...] | None:
    """Everything that determines the shapes of the results; None where this is not certain, or where no
    tensor is fake."""
    told: list[Any] = []
    seen = False
    for value in (*args, *kwargs.items()) if kwargs else args:
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Tensor):
                fake = type(part) is FakeTensor
                if part.dim() == 0 or not (fake or type(part) in (Tensor, torch.nn.Parameter)):
                    return None  # type promotion treats a tensor without dimensions differently
                seen |= fake
                told.append((fake, part.shape, part.stride(), part.dtype))
            elif isinstance(part, PLAIN):
                told.append((type(part), part))
            else:
                return None
        told.append(isinstance(value, list | tuple))
    return tuple(told) if seen else None


def _describe_new(out: Any, given: tuple[Any, ...]) -> Made | list[Made | None] | None:
    """The description of ``out``; None unless every tensor in it is new and fills its own storage."""
    storages = {
        part.untyped_storage()._cdata
        for value in given
        for part in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(part, Tensor)
    }
    several = isinstance(out, list | tuple)
    made: list[Made | None] = []
    for result in out if several else [out]:
        if result is None:
            made.append(None)
            continue
        if type(result) is not FakeTensor or result.device != CPU or result.storage_offset():
            return None
        content = torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device="meta")
        storage = result.untyped_storage()
        if storage._cdata in storages or storage.nbytes() != content.untyped_storage().nbytes():
            return None
        made.append(Made(tuple(result.shape), result.stride(), result.dtype))
    return made if several else made[0]


def _describe_view(out: Any, base: Tensor) -> Made | None:
    if type(out) is not FakeTensor or out.dtype != base.dtype:
        return None
    if out.untyped_storage()._cdata != base.untyped_storage()._cdata:
        return None
    further = int(out.storage_offset()) - int(base.storage_offset())
    return Made(tuple(out.shape), out.stride(), out.dtype, further)
