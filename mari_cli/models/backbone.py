"""The backbone that turns tokens into hidden states.

Shapes: B sequences, T tokens, N supervised positions, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from mari_cli.data.batches import Batch, Documents, collate
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.lm_head import backbone_of
from mari_cli.models.attention import no_mask
from mari_cli.models.device import Compute


def run_backbone(
    model: PreTrainedModel,
    input_ids_BT: Tensor,
    *,
    documents: Documents | None = None,
    layer: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [B, T, D] after the final norm, and those of ``layer`` if given (0: the embeddings).

    A packed row has ``documents``; ``model`` then needs the attention of models/attention.py.
    """
    layout = {}
    if documents is not None:
        layout = {
            "documents": documents,
            "position_ids": documents.position_ids_BT,
            "attention_mask": no_mask(input_ids_BT),
        }
    whole = backbone_of(model)
    if layer is not None and isinstance(whole, FSDPModule):
        with _collect_inputs(model, whole, layer) as seen:
            output = whole(input_ids=input_ids_BT, use_cache=False, **layout)
        return output.last_hidden_state, seen[0] if seen else output.last_hidden_state
    output = whole(input_ids=input_ids_BT, use_cache=False, output_hidden_states=layer is not None, **layout)
    return output.last_hidden_state, None if layer is None else output.hidden_states[layer]


@contextmanager
def _collect_inputs(model: PreTrainedModel, whole: nn.Module, layer: int) -> Iterator[list[Tensor]]:
    """Collect the input of block number ``layer``; nothing for the number after the last block. transformers
    does not find the blocks of a model in shards, and so returns no hidden states of layers."""
    count = int(model.config.get_text_config().num_hidden_layers)
    lists = [m for m in whole.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UserError(
            f"the layers of `{type(model).__name__}` are not found in shards", "use `train.parallel=ddp`"
        )
    seen: list[Tensor] = []

    def enter(block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    if layer == count:
        yield seen
        return
    handle = lists[0][layer].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def choose_layer(model: PreTrainedModel, layer: int | None) -> int:
    """``layer``, or the middle layer for None. Raises UserError where ``model`` has fewer layers."""
    layers = int(model.config.get_text_config().num_hidden_layers)
    if layer is not None and layer > layers:
        raise UserError(f"layer {layer} is read, but the model has {layers}", f"choose 0 to {layers}")
    return layers // 2 if layer is None else layer


def rows(batch: Batch, h_BTD: Tensor) -> Tensor:
    """[N, D] at the positions that predict a target, so that the head never runs over prompts and padding."""
    return h_BTD.flatten(0, 1).index_select(0, batch.rows_N)


def hidden_states(
    model: PreTrainedModel,
    compute: Compute,
    items: Sequence[Item],
    *,
    packed: bool = False,
    layer: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [N, D] at the supervised positions of ``items``, item by item, after the final norm, and
    those of ``layer`` if given.

    Packed and padded hidden states are equal up to rounding. With ``packed`` the CPU does not wait for a GPU.
    """
    batch = collate(items, packed=packed).to(compute.device)
    with compute.autocast():
        h_BTD, layer_BTD = run_backbone(model, batch.input_ids_BT, documents=batch.documents, layer=layer)
    return rows(batch, h_BTD), None if layer_BTD is None else rows(batch, layer_BTD)
