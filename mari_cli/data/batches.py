"""Which items a step sees, and how they become one rectangle of tokens.

Shapes: B = sequences, T = tokens of the longest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.data.tokenize import Item

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """``labels_BT[b, t]`` is the token to predict *at* position t (already shifted), or IGNORE.

    Sequences are padded on the right. A causal model cannot look there from any position that
    counts, so no attention mask is needed, and none can be wrong: a real EOS is never mistaken for
    padding, whatever the pad token.
    """

    input_ids_BT: Tensor
    labels_BT: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.input_ids_BT.to(device), self.labels_BT.to(device))


def collate(items: Sequence[Item]) -> Batch:
    length = max(len(item.input_ids) for item in items)
    input_ids_BT = torch.zeros(len(items), length, dtype=torch.long)
    labels_BT = torch.full((len(items), length), IGNORE)
    for row, item in enumerate(items):
        ids = torch.tensor(item.input_ids)
        input_ids_BT[row, : len(ids)] = ids
        labels_BT[row, item.supervised_from - 1 : len(ids) - 1] = ids[item.supervised_from :]
    return Batch(input_ids_BT, labels_BT)


def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    # seed and epoch are spread over the generator's 64 bits: neighbouring seeds share no epoch
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


def draw(size: int, batch_size: int, step: int, *, seed: int) -> list[int]:
    """Indices of the batch of optimiser step ``step`` (from 0): a stream of permutations, cut into batches.

    Every index comes once before any comes twice. The stream is a function of its arguments alone, so a
    resumed run needs no sampler state. Two corpora paired in a step have seeds of their own.
    """
    start = step * batch_size
    first, last = start // size, (start + batch_size - 1) // size
    stream = [index for epoch in range(first, last + 1) for index in _permutation(size, seed, epoch)]
    return stream[start - first * size :][:batch_size]


def epoch_batches(lengths: Sequence[int], batch_size: int, epoch: int, *, seed: int) -> list[list[int]]:
    """One epoch of fine-tuning: a permutation, sorted by length in pools of 16 batches, the batches shuffled.

    Sorting leaves little padding; the pools keep the batches of two epochs different.
    """
    order = _permutation(len(lengths), seed, epoch)
    pool = 16 * batch_size
    batches = []
    for start in range(0, len(order), pool):
        by_length = sorted(order[start : start + pool], key=lambda index: lengths[index])
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in _permutation(len(batches), seed, epoch)]


def length_sorted(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of indices with little padding between them."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def drawn_indices(size: int, batch_size: int, steps: int, *, seed: int) -> list[int]:
    """All indices that `draw` gives in ``steps`` steps, sorted."""
    return sorted(_permutation(size, seed, 0)[: steps * batch_size])  # beyond one permutation nothing is new
