"""What each layer of a model says at the positions that predict a target, and a layer that is replaced.

Shapes: L layers, N supervised positions, B sequences, T tokens, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mari_cli.data.batches import collate
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.lm_head import backbone_of
from mari_cli.models.backbone import choose_layer, rows, run_backbone
from mari_cli.models.load import LanguageModel
from mari_cli.models.lora import has_adapters


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of ``model``, first to last. Raises UserError where they are not found."""
    count = int(model.config.get_text_config().num_hidden_layers)
    lists = [m for m in backbone_of(model).modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UserError(f"the layers of `{type(model).__name__}` are not found", "leave out what reads them")
    return lists[0]


def require_trained(model: PreTrainedModel, layer: int | None) -> None:
    """Refuse a hidden ``layer`` (as `choose_layer` takes it) that ``model`` has not, or that no step could
    change, because all adapters are above it."""
    read = choose_layer(model, layer)
    if not has_adapters(model):
        return
    above = {id(p) for block in blocks_of(model)[read:] for p in block.parameters()}
    if not any(p.requires_grad and id(p) not in above for p in model.parameters()):
        raise UserError(
            f"the loss reads hidden layer {read}, but no layer below it has adapters: no step can change it",
            "choose a higher layer, or adapt lower ones with `model.lora.targets`",
        )


def readable_layers(model: PreTrainedModel) -> int:
    """How many layers of ``model`` the functions below can read; 0 where layers or norm are not found."""
    try:
        final_norm_of(model)
        return len(blocks_of(model))
    except UserError:
        return 0


def final_norm_of(model: PreTrainedModel) -> nn.Module:
    """The norm between the last layer and the head. Raises UserError where ``model`` has none."""
    norms = [
        part for name, part in backbone_of(model).named_children() if "norm" in type(part).__name__.lower()
    ]
    if not norms:
        raise UserError(f"`{type(model).__name__}` has no norm before its head", "leave out what reads it")
    return norms[-1]


@torch.no_grad()
def layer_states(lm: LanguageModel, items: Sequence[Item]) -> Tensor:
    """[L, N, D]: the output of each layer at the positions that predict the targets of ``items``."""
    batch = collate(items, packed=False).to(lm.device)
    seen: list[Tensor] = []

    def keep(block: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(rows(batch, _hidden(output)))

    handles = [block.register_forward_hook(keep) for block in blocks_of(lm.model)]
    try:
        with lm.compute.autocast():
            run_backbone(lm.model, batch.input_ids_BT)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)


@torch.no_grad()
def states_with(lm: LanguageModel, items: Sequence[Item], layer: int, instead_ND: Tensor) -> Tensor:
    """[N, D] after the final norm, where ``layer`` says ``instead_ND`` at the positions that predict the
    targets of ``items``."""
    batch = collate(items, packed=False).to(lm.device)
    with _replaced(blocks_of(lm.model)[layer], batch.rows_N, instead_ND), lm.compute.autocast():
        h_BTD, _ = run_backbone(lm.model, batch.input_ids_BT)
    return rows(batch, h_BTD)


@contextmanager
def _replaced(block: nn.Module, rows_N: Tensor, instead_ND: Tensor) -> Iterator[None]:
    def put(block: nn.Module, inputs: Any, output: Any) -> Any:
        h_BTD = _hidden(output)
        put_BTD = h_BTD.flatten(0, 1).index_copy(0, rows_N, instead_ND.to(h_BTD)).view_as(h_BTD)
        return (put_BTD, *output[1:]) if isinstance(output, tuple) else put_BTD

    handle = block.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _hidden(output: Any) -> Tensor:
    """The hidden states [B, T, D] among what a layer returns."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
