"""Models without weights: tensors that have a shape, a type and a device, and no content.

The modes of torch are not entered while such a model runs: an operator that meets a fake tensor is faked,
and what is decided from real data, on the CPU, stays real.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

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


def twin(model: M, world: FakeTensorMode) -> M:
    """``model`` with fake tensors on a CPU in the place of its own, wherever those are (`meta` included)."""
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
    return copy.deepcopy(model, fakes)  # which finds them in its memo, and copies no weight


# -- again ---------------------------------------------------------------------------------------------------

PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def _grouped_product(
    a: Tensor,
    b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The products of experts, for tokens [S, K] and weights [E, K, N] and for the gradients of both: torch
    itself tells the shape in bfloat16 alone, and computes in any type."""
    if type(a) is not FakeTensor:
        product: Tensor = torch.ops.aten._grouped_mm.default(a, b, offs, bias, out_dtype)
        return product
    experts = [len(offs)] if a.dim() == b.dim() == 2 and offs is not None else []
    if a.dim() == b.dim() == 3:
        experts = [len(a)]
    return a.new_empty([*experts, a.shape[-2], b.shape[-1]], dtype=out_dtype or a.dtype)


STAND_INS: dict[Any, Any] = {torch.ops.aten._grouped_mm.default: _grouped_product}
"""Operator: what makes its result of tensors without content, where torch cannot."""


@dataclass(frozen=True)
class Made:
    """A tensor that came out of an operator."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    further: int | None = None
    """Of a view, how far behind the first entry of what it is a view of it begins; None: it is new."""


class Again:
    """Calls operators on tensors of ``world``, and of one that comes again with the same shapes remembers
    what came out: a step is a few hundred different calls, made tens of thousands of times.

    torch remembers them too, but takes several times as long to find out whether it may. Left to it is what
    has numbers to look at, or is of real tensors alone.
    """

    def __init__(self, world: FakeTensorMode) -> None:
        self.world = world
        self.kinds: dict[Any, _Kind | None] = {}
        """By operator; None: none that is remembered."""
        self.known: dict[Any, Made | list[Made | None] | None] = {}
        """By operator and arguments, what was made, one tensor or several; None: not to be remembered."""

    def __call__(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func not in self.kinds:
            self.kinds[func] = _kind(func)
        kind = self.kinds[func]
        about = None if kind is None else _about(args, kwargs)
        call = STAND_INS.get(func, func)
        if kind is None or about is None or (kind.of is not None and type(args[kind.of]) is not FakeTensor):
            return call(*args, **kwargs)
        key = func, about
        if key not in self.known:
            out = call(*args, **kwargs)
            given = (*args, *kwargs.values())
            if kind.of is None:
                self.known[key] = _made(out, given)
            elif kind.writes:
                self.known[key] = []
            else:
                self.known[key] = _viewed(out, args[kind.of])
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
    """What an operator returns."""

    of: int | None = None
    """The number of the argument that it returns, or returns a view of; None: new tensors."""
    writes: bool = False
    """Whether it returns that argument itself, overwritten."""
    lists: bool = False
    """Whether several tensors come as a list."""


def _kind(func: Any) -> _Kind | None:
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


def _about(args: Any, kwargs: Any) -> tuple[Any, ...] | None:
    """All that the shapes of the results depend on; None where that is not sure, or no tensor is fake."""
    told: list[Any] = []
    seen = False
    for value in (*args, *kwargs.items()) if kwargs else args:
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Tensor):
                fake = type(part) is FakeTensor
                if part.dim() == 0 or not (fake or type(part) in (Tensor, torch.nn.Parameter)):
                    return None  # a number may widen other types or not
                seen |= fake
                told.append((fake, part.shape, part.stride(), part.dtype))
            elif isinstance(part, PLAIN):
                told.append((type(part), part))
            else:
                return None
        told.append(isinstance(value, list | tuple))
    return tuple(told) if seen else None


def _made(out: Any, given: tuple[Any, ...]) -> Made | list[Made | None] | None:
    """None where something else than new tensors came out, each in a storage of its size."""
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


def _viewed(out: Any, base: Tensor) -> Made | None:
    if type(out) is not FakeTensor or out.dtype != base.dtype:
        return None
    if out.untyped_storage()._cdata != base.untyped_storage()._cdata:
        return None
    further = int(out.storage_offset()) - int(base.storage_offset())
    return Made(tuple(out.shape), out.stride(), out.dtype, further)
