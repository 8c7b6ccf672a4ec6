"""Causal attention inside each document of a packed row, and never from one document to another.

It stands in for transformers' `sdpa`, which it is wherever no documents are given: in padded batches, in
generation, with a cache. Documents reach it as a keyword that transformers hands through to every attention
layer, and that gradient checkpointing hands through once more.

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
"""The same, of tensors without content on a CPU that stand for some on a GPU."""
PLAIN = "sdpa"
"""What transformers calls the attention that this one stands in for."""
UNDERSTOOD = {"sliding_window", "is_causal", "position_ids", "use_cache", "output_hidden_states"}
"""Keywords of an attention layer that ask for nothing, or for what is done here."""


class UnsupportedAttention(Exception):
    """A layer asks for something in its attention that is not done over documents."""


def install(model: PreTrainedModel) -> None:
    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def install_as_on_cuda(model: PreTrainedModel) -> None:
    """In the place of what `install` has installed: with the kernel that a GPU would take."""
    AttentionInterface.register(PLANNED, partial(document_attention, as_on_cuda=True))
    AttentionMaskInterface.register(PLANNED, sdpa_mask)
    model.set_attn_implementation(PLANNED)


def no_mask(input_ids_BT: Tensor) -> Tensor:
    """Takes the place of the mask of T × T that transformers would make, and halt the GPU for.

    transformers leaves a mask of four dimensions as it is. This one is of NaN: a layer that used it, instead
    of the documents, could not go unnoticed.
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
    """[1, H, T, D] -> [1, T, H, D], in the signature of transformers' attention functions."""
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
    query, key, value = (_autocast(states) for states in (query, key, value))
    kernel = could_have_kernel if as_on_cuda else has_kernel
    if dropout == 0.0 and kernel(query, key, value):
        output = _kernel(query, key, value, documents, scaling=scaling, window=window)
    else:
        parts = _documents(query, key, value, documents)
        output = torch.cat(
            [
                sdpa_attention_forward(
                    module, *part, _band(part[0], window), dropout=dropout, scaling=scaling, is_causal=True
                )[0].flatten(0, 1)
                for part in parts
            ]
        )
    return output.unsqueeze(0), None


def _autocast(states: Tensor) -> Tensor:
    """What autocast does for SDPA: a rotation or a norm before it may have left float32."""
    kind = states.device.type
    if states.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return states
    return states.to(torch.get_autocast_dtype(kind))


def has_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch's attention over documents of many lengths in one kernel takes these."""
    return (
        query.is_cuda
        and could_have_kernel(query, key, value)
        # without a GPU these are only planned with, for one that has it
        and (not torch.cuda.is_available() or torch.cuda.get_device_capability(query.device) >= (8, 0))
    )


def could_have_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether it would on a GPU that is new enough."""
    size = query.shape[-1]
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and size == key.shape[-1] == value.shape[-1]
        and size % 8 == 0
        and size <= 256
    )


def _kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """[T, H, D] by torch's flash attention, in which every query sees itself and those before it."""
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


def _documents(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values [S', H, T', D] of the S' neighbours that have one length T'."""
    runs = [(length, len(list(run))) for length, run in groupby(documents.lengths)]
    sizes = [length * count for length, count in runs]
    split = (states[0].split(sizes, 1) for states in (query, key, value))  # one split: one `cat` backwards
    for (length, count), *part in zip(runs, *split, strict=True):
        q, k, v = (states.unflatten(1, (count, length)).transpose(0, 1) for states in part)
        yield q, k, v


def _band(query: Tensor, window: int | None) -> Tensor | None:
    """Mask of a sliding window that counts the token itself; None where it reaches back to the first."""
    length = query.shape[2]
    if window is None or window >= length:
        return None
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return causal.triu(1 - window)
