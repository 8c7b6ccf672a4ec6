"""Causal attention over a packed row: each token sees only the tokens before it in its own document.

This attention replaces transformers' `sdpa`, and calls `sdpa` where no documents are given (padded batches,
generation, a cache). transformers passes the keyword `documents` on to every attention layer, also when
gradient checkpointing runs a layer again.

Shapes: T tokens of all documents, S documents, H heads, D size of a head; the row is a batch of one.
"""

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mari_cli.data.batches import Documents

NAME = "mari"
PLANNED = "mari_as_on_cuda"
"""The name of this attention for tensors without content on a CPU, which represent tensors on a GPU."""
PLAIN = "sdpa"
"""transformers' name of the attention that this one replaces."""
UNDERSTOOD = {"sliding_window", "is_causal", "position_ids", "use_cache", "output_hidden_states"}
"""Keywords of an attention layer that need no work, or that `document_attention` follows."""


class UnsupportedAttention(Exception):
    """An attention layer asks for something that `document_attention` cannot do."""


def install(model: PreTrainedModel, *, as_on_cuda: bool = False) -> None:
    """``as_on_cuda``: with the kernel that a GPU would use."""
    name = PLANNED if as_on_cuda else NAME
    AttentionInterface.register(name, partial(document_attention, as_on_cuda=as_on_cuda))
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)


def no_mask(input_ids_BT: Tensor) -> Tensor:
    """A mask [1, 1, 1, 1] in place of the [T, T] mask that transformers would make, for which the CPU waits.

    transformers leaves a mask of four dimensions as it is. This mask holds NaN, so that a layer that uses the
    mask instead of the documents gives NaN and is found.
    """
    return torch.full((1, 1, 1, 1), torch.nan, device=input_ids_BT.device)


def document_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    as_on_cuda: bool = False,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """[1, H, T, D] -> [1, T, H, D], in the signature of transformers' attention functions.

    Raises UnsupportedAttention for a keyword that cannot be followed inside documents.
    """
    if documents is None:
        if attention_mask is not None and attention_mask.numel() == 1 < query.shape[2]:  # that of `no_mask`
            raise UnsupportedAttention("it does not hand documents to its attention")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **keywords
        )
    for name, asked in keywords.items():
        if name not in UNDERSTOOD and asked is not None and asked is not False:
            raise UnsupportedAttention(f"its attention asks for `{name}`")
    is_causal = keywords.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise UnsupportedAttention("its attention is not causal")
    window = keywords.get("sliding_window")
    if window is not None and window >= max(documents.lengths):
        window = None
    query, key, value = (_cast(states) for states in (query, key, value))
    kernel = could_have_kernel if as_on_cuda else has_kernel
    if dropout == 0.0 and kernel(query, key, value):
        output = _run_kernel(query, key, value, documents, scaling=scaling, window=window)
    else:
        parts = _split_documents(query, key, value, documents)
        output = torch.cat(
            [
                sdpa_attention_forward(
                    module, *part, _mask(part[0], window), dropout=dropout, scaling=scaling, is_causal=True
                )[0].flatten(0, 1)
                for part in parts
            ]
        )
    return output.unsqueeze(0), None


def _cast(states: Tensor) -> Tensor:
    """Cast as autocast does for SDPA, because a rotation or a norm before may have returned float32."""
    kind = states.device.type
    if states.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return states
    return states.to(torch.get_autocast_dtype(kind))


def has_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch's kernel for documents of many lengths takes these tensors."""
    return (
        query.is_cuda
        and could_have_kernel(query, key, value)
        # without a GPU, tensors "on CUDA" have no content: they plan for a GPU that has the kernel
        and (not torch.cuda.is_available() or torch.cuda.get_device_capability(query.device) >= (8, 0))
    )


def could_have_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernel would take these tensors on a GPU that is new enough."""
    size = query.shape[-1]
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and size == key.shape[-1] == value.shape[-1]
        and size % 8 == 0
        and size <= 256
    )


def _run_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """[T, H, D] by torch's flash attention. Each query sees its own token and the tokens before."""
    longest = max(documents.lengths)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    output = varlen_attn(
        q,
        k,
        v,
        documents.boundaries,
        documents.boundaries,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)
    return output


def _split_documents(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values [S', H, T', D] of S' neighbouring documents that have the same length T'."""
    runs = [(length, len(list(run))) for length, run in groupby(documents.lengths)]
    sizes = [length * count for length, count in runs]
    split = (states[0].split(sizes, 1) for states in (query, key, value))  # one split: one `cat` backwards
    for (length, count), *part in zip(runs, *split, strict=True):
        q, k, v = (states.unflatten(1, (count, length)).transpose(0, 1) for states in part)
        yield q, k, v


def _mask(query: Tensor, window: int | None) -> Tensor | None:
    """Mask of a sliding window, whose length counts the token itself; None where all tokens are inside."""
    length = query.shape[2]
    if window is None or window >= length:
        return None
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return causal.triu(1 - window)
