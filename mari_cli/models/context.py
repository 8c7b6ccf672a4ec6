"""Retain-supported targets: for each forget position a distribution over tokens that the retain corpus gives,
computed once before the first step.

For forget position t, q_t = Σ_s w_ts p_s over retain positions s. p_s is the model's prediction before
unlearning. w_ts is a softmax of ⟨g_t, g_s⟩ / temperature over the k nearest s, where g are the hidden states
of one layer, centred by the retain mean and of unit length. (This method is not in the paper.) The q_t are
constants, so the loss at a position does not depend on the other items of the batch.

Cost in floating-point operations: 2MND to find the neighbours exactly, by comparing every pair; 4UVD for the
predictions at the U <= min(N, Mk) retain positions that are a neighbour, because the head computes each twice
(for its normaliser, and for blocks of the vocabulary); 2MkV for the weighted sums.
Shapes: N, M retain and forget positions, D hidden size, V vocabulary, k neighbours, K tokens kept; a
lower-case letter is a part of that dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from mari_cli.lm_head import Head
from mari_cli.models.fingerprint import cache_key
from mari_cli.models.reference import ItemRows, StoredReference
from mari_cli.progress import track
from mari_cli.storage.tensor_cache import TensorSpec, cache_tensors

DEFINITION = 2
"""The version in every cache key. Raise DEFINITION when a change in this file changes the targets."""
BLOCK = 2048
"""The number of positions of each corpus that are compared at once."""
NARROWEST = 512
"""The least width of a block of the vocabulary, because each block reads the states of all neighbours."""


@dataclass(frozen=True)
class Targets:
    """The largest entries of the retain-supported distributions at the forget positions."""

    rows: ItemRows
    device: torch.device
    """The device on which `of` returns its tensors."""
    ids_MK: Tensor
    """Tokens, int32: first the label of the position, then the most probable other tokens, in that order."""
    q_MK: Tensor
    """The probabilities of ``ids_MK``, float32. 1 minus their sum is the tail (rounding may make it < 0)."""

    def of(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(ids, probabilities) at the positions of ``items`` [sum n_i, K], item by item in their order."""
        gather = self.rows.gather
        return gather(self.ids_MK, items, self.device), gather(self.q_MK, items, self.device)


@torch.no_grad()
def context_targets(
    retain: StoredReference,
    forget: StoredReference,
    head: Head,
    *,
    temperature: float,
    neighbours: int,
    stored_tokens: int,
    chunk: int,
    directory: Path,
    block: int = BLOCK,
) -> Targets:
    """Read the targets from the cache in ``directory``, or compute and store them.

    ``retain`` holds the last states and the layer of the whole corpus; ``forget`` needs only the layer.
    ``head`` belongs to the model that made both. ``stored_tokens`` tokens are kept beside the label. Except
    for the M · k neighbours and the stored tensors, no tensor has more than ``chunk`` · V or
    ``block`` · (``block`` + k) entries.
    """
    last_ND, retain_ND, forget_MD, device = retain.last_ND, retain.layer_ND, forget.layer_ND, retain.device
    assert last_ND is not None
    assert retain_ND is not None
    assert forget_MD is not None
    tokens = min(stored_tokens, len(head.weight_VD) - 1)
    rows = rows_at_once(len(forget_MD), len(head.weight_VD), tokens=tokens, chunk=chunk)

    def fill(tensors: Mapping[str, Tensor]) -> None:
        nearest_Mk, weights_Mk = nearest(
            retain_ND, forget_MD, temperature=temperature, neighbours=neighbours, block=block, device=device
        )
        for start in range(0, len(forget_MD), rows):
            here = slice(start, start + rows)
            ids_mK, q_mK = mix_neighbours(
                head,
                last_ND,
                nearest_Mk[here].to(device),
                weights_Mk[here].to(device),
                forget.labels_N[here].to(device),
                tokens=tokens,
                chunk=chunk,
            )
            tensors["ids"][here] = ids_mK.int().cpu()
            tensors["q"][here] = q_mK.float().cpu()

    asked = {
        "retain": retain.key,
        "forget": forget.key,
        "temperature": temperature,
        "neighbours": neighbours,
        "stored_tokens": stored_tokens,
    }
    key = cache_key("context", DEFINITION, {}, asked)  # the keys of the two references identify the model
    shape = (len(forget_MD), 1 + tokens)
    parts = {"ids": TensorSpec(shape, torch.int32), "q": TensorSpec(shape, torch.float32)}
    tensors = cache_tensors(directory / "context", key, parts, fill, name="context targets")
    return Targets(forget.rows, device, tensors["ids"], tensors["q"])


def nearest(
    retain_ND: Tensor,
    forget_MD: Tensor,
    *,
    temperature: float,
    neighbours: int,
    block: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The nearest retain positions of each forget position [M, k] and their weights, nearest first, on the
    CPU. Computed in float32 or wider; of retain positions that are equally near, the first ones are taken."""
    dtype = torch.promote_types(retain_ND.dtype, torch.float32)
    blocks_nD = retain_ND.split(block)
    centre_D = sum((part_nD.double().sum(0) for part_nD in blocks_nD), torch.zeros(())) / len(retain_ND)
    centre_D = centre_D.to(device, dtype)

    def unit(states_nD: Tensor) -> Tensor:
        return normalize(states_nD.to(device, dtype) - centre_D, dim=-1)

    chosen = []
    forget_blocks = forget_MD.split(block)
    for forget_mD in track(forget_blocks, "context neighbours", len(forget_blocks)):
        g_mD = unit(forget_mD)
        values_mk = g_mD.new_empty(len(g_mD), 0)
        index_mk = torch.empty(len(g_mD), 0, dtype=torch.long, device=device)
        start = 0
        for retain_nD in blocks_nD:
            here_n = torch.arange(start, start + len(retain_nD), device=device)
            # earlier positions stand on the left, because `largest` takes the leftmost of equal values
            values = torch.cat([values_mk, g_mD @ unit(retain_nD).T], 1)
            index = torch.cat([index_mk, here_n.expand(len(g_mD), -1)], 1)
            values_mk, columns_mk = largest(values, neighbours)
            index_mk = index.gather(1, columns_mk)
            start += len(retain_nD)
        chosen.append((index_mk.cpu(), (values_mk / temperature).softmax(-1).cpu()))
    return torch.cat([index for index, _ in chosen]), torch.cat([weights for _, weights in chosen])


def largest(values_mn: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest entries of each row (all, if the row has fewer) and their columns, largest first. Of
    equal entries the leftmost are taken, which `topk` does not promise."""
    if values_mn.shape[1] <= k:
        every = values_mn.sort(dim=1, descending=True, stable=True)
        return every.values, every.indices
    top = values_mn.topk(k + 1, dim=1)
    columns_mk = top.indices[:, :k].sort(dim=1).values
    tied = (top.values[:, k - 1] == top.values[:, k]).nonzero().squeeze(1)  # seldom any
    if len(tied):
        all_sorted = values_mn[tied].sort(dim=1, descending=True, stable=True).indices
        columns_mk[tied] = all_sorted[:, :k].sort(dim=1).values
    ordered = values_mn.gather(1, columns_mk).sort(dim=1, descending=True, stable=True)
    return ordered.values, columns_mk.gather(1, ordered.indices)


def rows_at_once(positions: int, vocabulary: int, *, tokens: int, chunk: int) -> int:
    """The number of forget positions to mix at once, so that a block of the vocabulary is wide enough."""
    return max(1, min(positions, chunk * vocabulary // (min(vocabulary, NARROWEST) + tokens)))


def mix_neighbours(
    head: Head,
    last_ND: Tensor,
    nearest_mk: Tensor,
    weights_mk: Tensor,
    labels_m: Tensor,
    *,
    tokens: int,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """(ids, q) [m, 1 + tokens] of m forget positions, for the label and the most probable other tokens (of
    equally probable tokens, the lowest). The function works through the vocabulary in blocks, so that each
    neighbour's prediction is computed once for all forget positions that share the neighbour."""
    device, vocabulary = nearest_mk.device, len(head.weight_VD)
    asked_U, column_mk = nearest_mk.unique(return_inverse=True)
    asked_U = asked_U.to(last_ND.device)
    parts = asked_U.split(chunk)
    shown = track(parts, "context normalisers", len(parts))
    lse_U = torch.cat([head(last_ND[part].to(device)).logsumexp(-1) for part in shown])
    width = max(1, min(vocabulary, chunk * vocabulary // len(labels_m) - tokens))
    step = max(1, chunk * vocabulary // max(width, last_ND.shape[1]))
    label_m1 = labels_m.unsqueeze(1)
    q_label_m1 = lse_U.new_zeros(len(labels_m), 1)
    best_mk, ids_mk = lse_U.new_empty(len(labels_m), 0), label_m1[:, :0]
    starts = range(0, vocabulary, width)
    for start in track(starts, "context targets", len(starts)):
        block = columns(head, start, start + width)
        q_mv = lse_U.new_zeros(len(labels_m), len(block.weight_VD))
        for first in range(0, len(asked_U), step):
            here = slice(first, first + step)
            p_uv = block(last_ND[asked_U[here]].to(device)).sub_(lse_U[here].unsqueeze(1)).exp_()
            q_mv += weighted_sum(p_uv, column_mk - first, weights_mk)
        at_m1 = label_m1 - start
        inside_m1 = (at_m1 >= 0) & (at_m1 < q_mv.shape[1])
        at_m1 = at_m1.clamp(0, q_mv.shape[1] - 1)
        q_here_m1 = q_mv.gather(1, at_m1)
        q_label_m1 = torch.where(inside_m1, q_here_m1, q_label_m1)
        q_mv.scatter_(1, at_m1, torch.where(inside_m1, -1.0, q_here_m1))  # -1: the label is kept already
        # lower tokens stand on the left, because `largest` takes the leftmost of equal values
        ids_v = torch.arange(start, start + q_mv.shape[1], device=device)
        best_mk, columns_mk = largest(torch.cat([best_mk, q_mv], 1), tokens)
        ids_mk = torch.cat([ids_mk, ids_v.expand(len(labels_m), -1)], 1).gather(1, columns_mk)
    return torch.cat([label_m1, ids_mk], 1), torch.cat([q_label_m1, best_mk], 1)


def columns(head: Head, start: int, stop: int) -> Head:
    """The part of ``head`` that gives the logits of the tokens ``start`` <= token < ``stop``."""
    bias_V = None if head.bias_V is None else head.bias_V[start:stop]
    return replace(head, weight_VD=head.weight_VD[start:stop], bias_V=bias_V)


def weighted_sum(p_uv: Tensor, row_mk: Tensor, weights_mk: Tensor) -> Tensor:
    """Σ_k weights · p [m, v], over the rows that are in ``p_uv``."""
    there_mk = (row_mk >= 0) & (row_mk < len(p_uv))
    count_m = there_mk.sum(1)
    return embedding_bag(
        row_mk[there_mk],
        p_uv,
        count_m.cumsum(0) - count_m,
        mode="sum",
        per_sample_weights=weights_mk[there_mk].to(p_uv.dtype),
    )
