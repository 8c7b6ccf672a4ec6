"""What the retain data supports where the forget data speaks: a distribution over tokens for each forget
position, from the whole retain corpus, computed once before the first step.

For forget position t, q_t = Σ_s w_ts p_s over retain positions s: p_s is the model's prediction before
unlearning, w_ts a softmax over the k nearest s of ⟨g_t, g_s⟩ / temperature, g the hidden states of one layer,
centred by the retain mean and of unit length. (Ours, beyond the paper.) Being constants, the q_t need nothing
of the step's other positions: the loss does not depend on the batch.

Cost in floating-point operations: 2MND for the neighbours, exact because every pair is looked at; for the
distributions 2UV(D + c), U <= min(Mk, MN/c) the positions whose prediction is asked for, which shrinks as
positions that are worked on together share neighbours.
Shapes: N, M retain and forget positions, D hidden size, V vocabulary, k neighbours, K tokens kept, c = chunk.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mari_cli.models.reference import Reference, Rows
from mari_cli.models.store import Stored, stored
from mari_cli.progress import Track

DEFINITION = 1
"""Part of every key: raise it when a change here changes what is computed."""
BLOCK = 2048
"""Positions of either corpus that are compared at once."""


@dataclass(frozen=True)
class Targets:
    """The retain-supported distributions at the forget positions, as far as their largest entries go."""

    rows: Rows
    device: torch.device
    """Where they are gathered to."""
    ids_MK: Tensor
    """Tokens, int32: first the position's own label, then the others from the most probable on."""
    q_MK: Tensor
    """Their probabilities, float32. What is missing to 1 is the tail (by rounding it may be just below 0)."""

    def of(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(ids, probabilities) at the positions of ``items`` [sum n_i, K], item by item in their order."""
        gather = self.rows.gather
        return gather(self.ids_MK, items, self.device), gather(self.q_MK, items, self.device)


@torch.no_grad()
def context_targets(
    retain: Reference,
    forget: Reference,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    neighbours: int,
    stored_tokens: int,
    chunk: int,
    directory: Path,
    track: Track,
    block: int = BLOCK,
) -> Targets:
    """From the cache in ``directory``, or computed now.

    ``retain`` remembers the whole corpus, states and layer; of ``forget`` the layer is enough. ``head`` maps
    states to logits and belongs to the model that both remember. ``stored_tokens`` are kept beside the label.
    Beside M · k neighbours and what is stored, no tensor has more than ``chunk`` · V entries (a chunk being
    smaller than the vocabulary) or ``block`` · (``block`` + k).
    """
    last_ND, retain_ND, forget_MD, device = retain.last_ND, retain.layer_ND, forget.layer_ND, retain.device
    assert last_ND is not None
    assert retain_ND is not None
    assert forget_MD is not None
    positions, vocabulary = len(forget.labels_N), head(last_ND[:1].to(device)).shape[-1]
    stored_shape = (positions, min(stored_tokens, vocabulary - 1) + 1)

    def fill(tensors: Mapping[str, Tensor]) -> None:
        nearest_Mk, weights_Mk = nearest(
            retain_ND,
            forget_MD,
            temperature=temperature,
            neighbours=neighbours,
            block=block,
            device=device,
            track=track,
        )
        # positions with the same nearest neighbour next to each other: they share most of the others, too
        blocks = nearest_Mk[:, 0].argsort(stable=True).split(chunk)
        for rows_c in track(blocks, "context targets", len(blocks)):
            q_cV = supported(
                head, last_ND, nearest_Mk[rows_c], weights_Mk[rows_c], chunk=chunk, device=device
            )
            ids_cK, q_cK = sparse(q_cV, forget.labels_N[rows_c].to(device), stored_shape[1] - 1)
            tensors["ids"][rows_c] = ids_cK.int().cpu()
            tensors["q"][rows_c] = q_cK.float().cpu()

    key = {
        "definition": DEFINITION,
        "retain": retain.key,
        "forget": forget.key,
        "temperature": temperature,
        "neighbours": neighbours,
        "stored_tokens": stored_tokens,
    }
    parts = {"ids": Stored(stored_shape, torch.int32), "q": Stored(stored_shape, torch.float32)}
    tensors = stored(directory / "context", key, parts, fill, name="context targets")
    return Targets(forget.rows, device, tensors["ids"], tensors["q"])


def nearest(
    retain_ND: Tensor,
    forget_MD: Tensor,
    *,
    temperature: float,
    neighbours: int,
    block: int,
    device: torch.device,
    track: Track,
) -> tuple[Tensor, Tensor]:
    """Of each forget position the nearest retain positions [M, k] and their weights, nearest first, on the
    CPU. Computed in float32 at least; of retain positions that are equally near in it, the first ones."""
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
        values_mk, index_mk = (
            g_mD.new_empty(len(g_mD), 0),
            torch.empty(len(g_mD), 0, dtype=torch.long, device=device),
        )
        start = 0
        for retain_nD in blocks_nD:
            here_n = torch.arange(start, start + len(retain_nD), device=device)
            # earlier positions on the left, so that they win a tie
            values = torch.cat([values_mk, g_mD @ unit(retain_nD).T], 1)
            index = torch.cat([index_mk, here_n.expand(len(g_mD), -1)], 1)
            values_mk, columns_mk = largest(values, neighbours)
            index_mk = index.gather(1, columns_mk)
            start += len(retain_nD)
        chosen.append((index_mk.cpu(), (values_mk / temperature).softmax(-1).cpu()))
    return torch.cat([index for index, _ in chosen]), torch.cat([weights for _, weights in chosen])


def largest(values_mn: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest entries of each row (all, if it has fewer) and their columns, largest first, and of
    equal ones the leftmost, which `topk` does not promise."""
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


def supported(
    head: Callable[[Tensor], Tensor],
    last_ND: Tensor,
    nearest_ck: Tensor,
    weights_ck: Tensor,
    *,
    chunk: int,
    device: torch.device,
) -> Tensor:
    """q [c, V] of some forget positions: each of their neighbours goes through the head once."""
    asked_U, column_ck = nearest_ck.unique(return_inverse=True)
    q_cV: Tensor | None = None
    for start in range(0, len(asked_U), chunk):
        p_uV = head(last_ND[asked_U[start : start + chunk]].to(device)).softmax(-1)
        row, place = ((column_ck >= start) & (column_ck < start + chunk)).nonzero(as_tuple=True)
        w_cu = torch.zeros(len(nearest_ck), len(p_uV), dtype=weights_ck.dtype)
        w_cu[row, column_ck[row, place] - start] = weights_ck[row, place]
        part_cV = w_cu.to(device, p_uV.dtype) @ p_uV
        q_cV = part_cV if q_cV is None else q_cV.add_(part_cV)
    assert q_cV is not None
    return q_cV


def sparse(q_cV: Tensor, labels_c: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """(ids, probabilities) of the label and of the ``tokens`` most probable others [c, 1 + tokens]. Spoils
    ``q_cV``."""
    label_c1 = labels_c.unsqueeze(1)
    q_label_c1 = q_cV.gather(1, label_c1)
    values, ids = largest(q_cV.scatter_(1, label_c1, -1.0), tokens)
    return torch.cat([label_c1, ids[:, :tokens]], 1), torch.cat([q_label_c1, values[:, :tokens]], 1)
