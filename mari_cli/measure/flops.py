"""Floating-point operations of matrix products, counted at dispatch with the formulas of torch or of this
file. Attention is counted in full, although a causal mask saves half.

torch's `FlopCounterMode` is not used, because its hooks on modules keep activations alive that a checkpointed
step would free. This would change a measurement of memory at the same time.
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
    """Operations of the product of [.., m, k] and [.., k, n]."""
    count = 2 * a[-2] * a[-1] * b[-1]
    return count * a[0] if len(a) == 3 else count


def _grouped_product(a: Shape, b: Shape, *rest: Any) -> int:
    """Operations of tokens [S, K], each with one of the experts [E, K, N], and of the gradients' products."""
    return 2 * a[-2] * a[-1] * b[-1] * (a[0] if len(a) == len(b) == 3 else 1)


def _varlen(boundaries: Tensor, query: Tensor) -> int:
    """Operations of attention with queries [T, H, D]: for each document of t tokens and each head two
    products of 2 t² D operations."""
    _, heads, size = query.shape
    return 4 * heads * size * int(boundaries.diff().long().square().sum())


VARLEN: dict[str, Callable[..., int]] = {
    "torch_attn::_varlen_attn": lambda query, key, value, boundaries, *rest: _varlen(boundaries, query),
    "torch_attn::_varlen_attn_backward": (  # five products, where the forward pass has two
        lambda grad, query, key, value, out, lse, boundaries, *rest: _varlen(boundaries, query) * 5 // 2
    ),
}
"""Formulas for attention over documents. They take tensors, because a tensor holds the documents' lengths."""

OURS: dict[Any, Callable[..., int]] = {
    aten.addmm: _added_product,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_product,
    aten.mv: lambda a, b, *rest: 2 * a[0] * a[1],
    aten._grouped_mm: _grouped_product,
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *args: int(sdpa_flop_count(*args[:3])),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *args: int(sdpa_backward_flop_count(*args[:4]))
    ),
}
"""Formulas, by operator, of the arguments' shapes, where torch has none, or none that knows `out_dtype`."""


def operations(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Floating-point operations of one dispatched operator; 0 if it is no matrix product."""
    packet = func.overloadpacket
    if (formula := OURS.get(packet)) is not None:
        return formula(*tree_map(get_shape, args))
    if (of_tensors := VARLEN.get(func.name())) is not None:
        return of_tensors(*args)
    known = flop_registry.get(packet)
    return 0 if known is None else int(known(*args, **kwargs, out_val=out))
