"""The trunk that turns tokens into hidden states.

Shapes: B sequences, T tokens, N supervised positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mari_cli.data.batches import IGNORE, Batch, collate
from mari_cli.data.tokenize import Item
from mari_cli.models.device import Compute


def trunk(
    model: PreTrainedModel, input_ids_BT: Tensor, *, layer: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [B, T, D] after the final norm, and of ``layer`` if asked for (0: the embeddings)."""
    output = model.base_model(input_ids=input_ids_BT, use_cache=False, output_hidden_states=layer is not None)
    return output.last_hidden_state, None if layer is None else output.hidden_states[layer]


@dataclass(frozen=True)
class States:
    """Hidden states at the supervised positions of some sequences, sequence by sequence."""

    h_ND: Tensor
    labels_N: Tensor
    sequence_N: Tensor
    index_N: Tensor
    """Index of the target in its completion or block."""
    sequences: int

    @staticmethod
    def concatenate(parts: list["States"]) -> "States":
        offsets = [sum(part.sequences for part in parts[:i]) for i in range(len(parts))]
        return States(
            torch.cat([part.h_ND for part in parts]),
            torch.cat([part.labels_N for part in parts]),
            torch.cat([part.sequence_N + offset for part, offset in zip(parts, offsets, strict=True)]),
            torch.cat([part.index_N for part in parts]),
            sum(part.sequences for part in parts),
        )


def supervised(batch: Batch, h_BTD: Tensor) -> States:
    """Keep the positions that predict a target: the head never runs over prompts and padding."""
    mask_BT = batch.labels_BT != IGNORE
    index_BT = mask_BT.cumsum(1) - 1
    return States(
        h_BTD[mask_BT], batch.labels_BT[mask_BT], mask_BT.nonzero()[:, 0], index_BT[mask_BT], len(mask_BT)
    )


def hidden_states(
    model: PreTrainedModel, compute: Compute, items: Sequence[Item], *, layer: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [N, D] at the supervised positions of ``items``, item by item, after the final norm; and
    of ``layer`` if asked for."""
    batch = collate(items).to(compute.device)
    with compute.autocast():
        h_BTD, layer_BTD = trunk(model, batch.input_ids_BT, layer=layer)
    return supervised(batch, h_BTD).h_ND, None if layer_BTD is None else supervised(batch, layer_BTD).h_ND
