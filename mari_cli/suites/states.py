"""Hidden states of a corpus, in a file for as long as its marginal information is measured.

That needs them position by position, where a model gives them item by item; all of them are more than the
memory of a computer holds.
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
"""Of a number: states after the final norm are float32, also where matrix products are in 16 bits."""


class StoredStates:
    """Rows [N, D] on the CPU, one for each target of ``items``, in the dtype in which they come. The file is
    in ``directory`` (None: where the system keeps temporary files) and is gone with this object, or with
    the process. Of several processes the first alone keeps them."""

    def __init__(self, items: Sequence[Item], directory: Path | None) -> None:
        self.counts = [item.num_targets for item in items]
        self.starts = [0, *accumulate(self.counts)]
        self.directory = directory
        self.h_ND = torch.empty(0)

    def put(self, item: int, h_nD: Tensor) -> None:
        """The states of one item. Raises UserError where the disk has no room for those of all."""
        if not distributed.is_rank_zero():
            return
        if len(self.h_ND) == 0:
            shape = (self.starts[-1], h_nD.shape[1])
            self.h_ND = temporary_tensor(self.directory, TensorSpec(shape, h_nD.dtype))
        self.h_ND[self.starts[item] : self.starts[item + 1]] = h_nD

    def supervised(self, kept: Sequence[int]) -> Supervised:
        """The rows of the items at ``kept``, in order; only where some are left out, as a copy in memory."""
        counts = [self.counts[i] for i in kept]
        h_ND = self.h_ND
        if len(kept) < len(self.counts):
            h_ND = torch.cat([h_ND[self.starts[i] : self.starts[i + 1]] for i in kept])
        return Supervised(
            h_ND=h_ND,
            item_N=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
            position_N=torch.cat([torch.arange(count) for count in counts]),
        )
