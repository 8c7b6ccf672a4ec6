"""The model before unlearning, remembered instead of kept: its hidden states where it will be asked.

A forward pass over each item before the first step replaces a second model in memory and a second forward in
every step. N supervised positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.data.batches import collate, length_sorted
from mari_cli.data.tokenize import Item
from mari_cli.models.load import LanguageModel
from mari_cli.models.trunk import supervised, trunk
from mari_cli.progress import Track


@dataclass(frozen=True)
class ReferenceStates:
    """Per item of one corpus, on the CPU in float32."""

    last: list[Tensor]
    """Hidden states after the final norm, [n_i, D]."""
    layer: list[Tensor]
    """Hidden states of the layer that defines contexts, [n_i, D]; empty where none was asked for."""

    @staticmethod
    def gather(states: list[Tensor], indices: Sequence[int], device: torch.device) -> Tensor:
        return torch.cat([states[i] for i in indices]).to(device)


@torch.no_grad()
def reference_states(
    lm: LanguageModel, items: Sequence[Item], *, layer: int | None, batch_size: int, track: Track, name: str
) -> ReferenceStates:
    """States of all ``items`` under ``lm`` as it is now; ``layer`` counts from 0 = the embeddings."""
    last: list[Tensor] = [torch.empty(0)] * len(items)
    middle: list[Tensor] = [torch.empty(0)] * (0 if layer is None else len(items))
    chunks = list(length_sorted([len(item.input_ids) for item in items], batch_size))
    lm.model.eval()
    for chunk in track(chunks, f"reference on {name}", len(chunks)):
        batch = collate([items[i] for i in chunk]).to(lm.device)
        with lm.compute.autocast():
            h_BTD, layer_BTD = trunk(lm.model, batch.input_ids_BT, layer=layer)
        counts = [items[i].num_targets for i in chunk]
        for i, states in zip(chunk, supervised(batch, h_BTD).h_ND.float().cpu().split(counts), strict=True):
            last[i] = states.clone()
        if layer_BTD is not None:
            for i, states in zip(
                chunk, supervised(batch, layer_BTD).h_ND.float().cpu().split(counts), strict=True
            ):
                middle[i] = states.clone()
    return ReferenceStates(last, middle)
