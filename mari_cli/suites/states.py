"""Hidden states of a corpus, in a file while its marginal information is measured.

Marginal information needs the states position by position, but a model computes them item by item; all of
them may exceed the memory of a computer.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.data.tokenize import Item
from mari_cli.metrics.marginal import Supervised
from mari_cli.storage.tensor_cache import TensorSpec, temporary_tensor

BYTES = 4
"""Bytes per number: states after the final norm are float32, even where matrix products use 16 bits."""


class StoredStates:
    """Rows [N, D] on the CPU, one for each target of ``items``, in the dtype of the given states. The file is
    in ``directory`` (None: the system's temporary directory) and is deleted with this object or with the
    process. Of several processes only rank 0 keeps states."""

    def __init__(self, items: Sequence[Item], directory: Path | None) -> None:
        self.counts = [item.num_targets for item in items]
        self.starts = [0, *accumulate(self.counts)]
        self.directory = directory
        self.h_ND = torch.empty(0)

    def put(self, item: int, h_nD: Tensor) -> None:
        """Store the states of one item. Raises UserError where the disk has no space for all states."""
        if not distributed.is_rank_zero():
            return
        if len(self.h_ND) == 0:
            shape = (self.starts[-1], h_nD.shape[1])
            self.h_ND = temporary_tensor(self.directory, TensorSpec(shape, h_nD.dtype))
        self.h_ND[self.starts[item] : self.starts[item + 1]] = h_nD

    def supervised(self, kept: Sequence[int]) -> Supervised:
        """The rows of the items at ``kept``, in order; a copy in memory only if some items are left out."""
        counts = [self.counts[i] for i in kept]
        h_ND = self.h_ND
        if len(kept) < len(self.counts):
            h_ND = torch.cat([h_ND[self.starts[i] : self.starts[i + 1]] for i in kept])
        return Supervised(
            h_ND=h_ND,
            item_N=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
            position_N=torch.cat([torch.arange(count) for count in counts]),
        )
