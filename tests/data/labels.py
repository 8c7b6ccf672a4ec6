"""The labels of a batch as transformers has them."""

import torch
from torch import Tensor

from mari_cli.data.batches import Batch

IGNORE = -100


def labels_of(batch: Batch) -> Tensor:
    """[B, T]: the token to predict *at* each position (already shifted), or IGNORE."""
    labels_BT = torch.full_like(batch.input_ids_BT, IGNORE)
    return labels_BT.view(-1).index_copy(0, batch.rows_N, batch.labels_N).view_as(labels_BT)
