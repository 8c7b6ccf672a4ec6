"""The choice of a step's items, and their collation into one tensor of tokens.

Shapes: S items, N supervised positions of all items, B rows, T tokens in a row. Padded: B = S, and T is the
length of the longest item. Packed: B = 1, and T is the sum of the lengths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from mari_cli.data.tokenize import Item
from mari_cli.transfer import sent


@dataclass(frozen=True)
class Documents:
    """The positions of the sequences in a packed row. Attention must not cross from one to another."""

    lengths: tuple[int, ...]
    """Tokens of each sequence, in the order of the row: shortest first, so equal lengths are adjacent."""
    boundaries: Tensor
    """[S + 1], int32: the index at which each sequence begins, and the end of the last one."""
    position_ids_BT: Tensor
    """[1, T]: positions, counted from 0 in each sequence."""

    def to(self, device: torch.device) -> "Documents":
        return Documents(self.lengths, sent(self.boundaries, device), sent(self.position_ids_BT, device))


@dataclass(frozen=True)
class Batch:
    """Tokens of some items, with their targets and the positions that predict these. Made on the CPU.

    Padded: one row for each item, filled on the right. The batch needs no attention mask, because a causal
    model never reads the padding from a supervised position; so a real EOS is never mistaken for padding.
    Packed: all items in one row, without padding.
    """

    input_ids_BT: Tensor
    rows_N: Tensor
    """Positions that predict a target, as rows of the flattened [B * T], item by item."""
    labels_N: Tensor
    """The target of each position in ``rows_N``: the next token."""
    counts: tuple[int, ...]
    """The number of targets of each item."""
    tokens: int
    """The number of tokens of all items, without padding."""
    documents: Documents | None
    """The sequences of a packed row; None in a padded batch."""

    def to(self, device: torch.device) -> "Batch":
        """This batch on ``device``. The CPU does not wait for a copy to a GPU."""
        return replace(
            self,
            input_ids_BT=sent(self.input_ids_BT, device),
            rows_N=sent(self.rows_N, device),
            labels_N=sent(self.labels_N, device),
            documents=self.documents and self.documents.to(device),
        )


def collate(items: Sequence[Item], *, packed: bool = False) -> Batch:
    lengths = [len(item.input_ids) for item in items]
    if packed:
        order = sorted(range(len(items)), key=lengths.__getitem__)
        ends = list(accumulate(lengths[i] for i in order))
        begin = dict(zip(order, [0, *ends], strict=False))
        documents = Documents(
            tuple(lengths[i] for i in order),
            torch.tensor([0, *ends], dtype=torch.int32),
            torch.cat([torch.arange(lengths[i]) for i in order]).unsqueeze(0),
        )
        input_ids_BT = torch.tensor([token for i in order for token in items[i].input_ids]).unsqueeze(0)
    else:
        begin = {i: i * max(lengths) for i in range(len(items))}
        documents = None
        input_ids_BT = torch.zeros(len(items), max(lengths), dtype=torch.long)
        for row, item in enumerate(items):
            input_ids_BT[row, : lengths[row]] = torch.tensor(item.input_ids)
    rows = [
        torch.arange(begin[i] + item.supervised_from - 1, begin[i] + lengths[i] - 1)
        for i, item in enumerate(items)
    ]
    return Batch(
        input_ids_BT=input_ids_BT,
        rows_N=torch.cat(rows),
        labels_N=torch.tensor([token for item in items for token in item.labels]),
        counts=tuple(item.num_targets for item in items),
        tokens=sum(lengths),
        documents=documents,
    )


def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    # the factor keeps the epochs of neighbouring seeds apart
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


def draw(size: int, batch_size: int, step: int, *, seed: int) -> list[int]:
    """Indices of the batch of optimiser step ``step`` (from 0), cut from a stream of permutations.

    Every index comes once before any comes twice. The stream depends only on the arguments, so a resumed run
    needs no sampler state. Two corpora in the same step have different seeds.
    """
    start = step * batch_size
    first, last = start // size, (start + batch_size - 1) // size
    stream = [index for epoch in range(first, last + 1) for index in _permutation(size, seed, epoch)]
    return stream[start - first * size :][:batch_size]


def epoch_batches(lengths: Sequence[int], batch_size: int, epoch: int, *, seed: int) -> list[list[int]]:
    """The batches of one epoch: a permutation, sorted by length in pools of 16 batches, then shuffled.

    Sorting reduces padding; pools make the batches of two epochs different.
    """
    order = _permutation(len(lengths), seed, epoch)
    pool = 16 * batch_size
    batches = []
    for start in range(0, len(order), pool):
        by_length = sorted(order[start : start + pool], key=lambda index: lengths[index])
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in _permutation(len(batches), seed, epoch)]


def length_sorted(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of indices, sorted by length to reduce padding."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def drawn_indices(size: int, batch_size: int, steps: int, *, seed: int) -> list[int]:
    """All indices that `draw` returns in ``steps`` steps, sorted."""
    return sorted(_permutation(size, seed, 0)[: steps * batch_size])  # one permutation holds all indices
