"""The trunk that turns tokens into hidden states.

Shapes: B sequences, T tokens, N supervised positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mari_cli.data.batches import Batch, Documents, collate
from mari_cli.data.tokenize import Item
from mari_cli.models.attention import no_mask
from mari_cli.models.device import Compute


def trunk(
    model: PreTrainedModel,
    input_ids_BT: Tensor,
    *,
    documents: Documents | None = None,
    layer: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [B, T, D] after the final norm, and of ``layer`` if asked for (0: the embeddings).

    ``documents`` of a packed row need a model with our attention installed.
    """
    layout = {}
    if documents is not None:
        layout = {
            "documents": documents,
            "position_ids": documents.position_ids_BT,
            "attention_mask": no_mask(input_ids_BT),
        }
    output = model.base_model(
        input_ids=input_ids_BT, use_cache=False, output_hidden_states=layer is not None, **layout
    )
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


def rows(batch: Batch, h_BTD: Tensor) -> Tensor:
    """[N, D] at the positions that predict a target: the head never runs over prompts and padding."""
    return h_BTD.flatten(0, 1).index_select(0, batch.rows_N)


def supervised(batch: Batch, h_BTD: Tensor) -> States:
    """``rows`` with what there is to know of each."""
    sequence_N = torch.arange(len(batch.counts)).repeat_interleave(torch.tensor(batch.counts))
    index_N = torch.cat([torch.arange(count) for count in batch.counts])
    device = h_BTD.device
    return States(
        rows(batch, h_BTD), batch.labels_N, sequence_N.to(device), index_N.to(device), len(batch.counts)
    )


def hidden_states(
    model: PreTrainedModel,
    compute: Compute,
    items: Sequence[Item],
    *,
    packed: bool = False,
    layer: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [N, D] at the supervised positions of ``items``, item by item, after the final norm; and
    of ``layer`` if asked for.

    They are the same ``packed`` or padded, up to rounding. On a GPU nobody waits for them, packed.
    """
    batch = collate(items, packed=packed).to(compute.device)
    with compute.autocast():
        h_BTD, layer_BTD = trunk(model, batch.input_ids_BT, documents=batch.documents, layer=layer)
    return rows(batch, h_BTD), None if layer_BTD is None else rows(batch, layer_BTD)
