"""The gradient norm of every single item, for membership inference: one backward pass each.

Shapes: N supervised positions, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mari_cli import distributed
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.metrics import membership
from mari_cli.models.backbone import hidden_states
from mari_cli.models.load import LanguageModel
from mari_cli.progress import Track

ROWS = 512
"""Positions whose logits exist at one time: the backward pass computes them again."""


def gradnorms(lm: LanguageModel, items: Sequence[Item], *, track: Track, description: str) -> list[float]:
    """`membership.gradnorm` of each item, in order: of its mean token loss, over all weights of the model.

    It needs memory for one gradient of all weights. Several processes share the items; their weights must not
    be sharded. No gradient is kept.
    """
    lm.model.eval()
    with _all_trained(lm) as parameters, torch.enable_grad():

        def of_item(item: Item) -> float:
            gradients = torch.autograd.grad(_mean_loss(lm, item), parameters, allow_unused=True)
            return membership.gradnorm(gradient for gradient in gradients if gradient is not None)

        return list(track(distributed.map_over_processes(items, of_item), description, len(items)))


@contextmanager
def _all_trained(lm: LanguageModel) -> Iterator[list[torch.nn.Parameter]]:
    """All parameters of the model with `requires_grad`, whichever a run trains."""
    parameters = list(lm.model.parameters())
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for parameter, trained in zip(parameters, before, strict=True):
            parameter.requires_grad_(trained)


def _mean_loss(lm: LanguageModel, item: Item) -> Tensor:
    head = head_of(lm.model)

    def summed(h_nD: Tensor, labels_n: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(head(h_nD), labels_n, reduction="sum")

    h_ND, _ = hidden_states(lm.model, lm.compute, [item], packed=lm.layout.packed)
    labels_N = torch.tensor(item.input_ids[item.supervised_from :], device=lm.device)
    parts = zip(h_ND.split(ROWS), labels_N.split(ROWS), strict=True)
    losses = [checkpoint(summed, *part, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum() / len(labels_N)
