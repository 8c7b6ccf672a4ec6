"""Floating-point operations of matrix products, counted as they are dispatched: by torch's formulas, and the
same for operators that it has none for. Attention is counted in full, without the half that causality saves.

Not through torch's own `FlopCounterMode`: to tell modules apart it hangs hooks on them, and these keep
activations alive that a checkpointed step would free, which would spoil a measurement of memory at the same
time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry, get_shape, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
Shape = Sequence[int]


def _added_product(target: Shape, a: Shape, b: Shape, *rest: Any) -> int:
    """Of [.., m, k] and [.., k, n]."""
    count = 2 * a[-2] * a[-1] * b[-1]
    return count * a[0] if len(a) == 3 else count


def _vector_product(a: Shape, b: Shape, *rest: Any) -> int:
    return 2 * a[0] * a[1]


def _grouped_product(a: Shape, b: Shape, *rest: Any) -> int:
    """Of tokens [S, K] and experts [E, K, N], each token with one of them; and its gradients."""
    return 2 * a[-2] * a[-1] * b[-1] * (a[0] if len(a) == len(b) == 3 else 1)


def _attention(query: Shape, key: Shape, value: Shape, *rest: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *rest: Any, **options: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _varlen(boundaries: Tensor, query: Tensor) -> int:
    """Two products of [t, D] and [D, t] for each document of t tokens and each head, queries [T, H, D]."""
    _, heads, size = query.shape
    return 4 * heads * size * int(boundaries.diff().long().square().sum())


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, *rest: Any) -> int:
    return _varlen(boundaries, query)


def _varlen_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    boundaries: Tensor,
    *rest: Any,
) -> int:
    return _varlen(boundaries, query) * 5 // 2  # five products for the two of the way there


VARLEN: dict[str, Callable[..., int]] = {
    "torch_attn::_varlen_attn": _varlen_attention,
    "torch_attn::_varlen_attn_backward": _varlen_attention_backward,
}
"""Of one row of documents, whose lengths are told by a tensor: their formulas take tensors."""

OURS: dict[Any, Callable[..., int]] = {
    aten.addmm: _added_product,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_product,
    aten.mv: _vector_product,
    aten._grouped_mm: _grouped_product,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Operator: formula of its arguments' shapes. Torch has none for it, or none that knows `out_dtype`."""


def operations(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Of one dispatched operator; 0 where it is no product of matrices."""
    packet = func.overloadpacket
    if (formula := OURS.get(packet)) is not None:
        return formula(*tree_map(get_shape, args))
    if (of_tensors := VARLEN.get(func.name())) is not None:
        return of_tensors(*args)
    known = flop_registry.get(packet)
    return 0 if known is None else int(known(*args, **kwargs, out_val=out))
