"""Weights, gradients and optimiser states cut into shards, one for each process: torch's FSDP2."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from mari_cli import distributed
from mari_cli.config import Weights
from mari_cli.lm_head import backbone_of
from mari_cli.models.load import LanguageModel


@contextmanager
def sharded(lm: LanguageModel, *, weights: Weights = Weights.float32) -> Iterator[LanguageModel]:
    """A copy of ``lm`` in shards, to train on. During the block ``lm`` has no weights; afterwards it has
    those that the training left.

    The sharded modules are a copy, so that none of their hooks stays in ``lm``. Shards are float32; blocks
    are gathered in the dtype ``weights``, with which the model computes in one process too.
    """
    twin = copy.deepcopy(lm.model, {id(p): p for p in lm.model.parameters()})
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if weights is Weights.bfloat16:
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for parameter in twin.parameters():
            if not parameter.requires_grad:  # frozen weights stay rounded, as in one process
                parameter.data = parameter.data.to(torch.bfloat16).float()
    _apply_fsdp(twin, policy)
    head = lm.model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    # a head that is not trained serves the reference too (`Head.frozen`), which needs the whole head
    kept = {id(p) for p in head.parameters() if not p.requires_grad}
    for parameter in lm.model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.new_empty(0)
    with warnings.catch_warnings():
        # of writing into what the backbone returns, which nothing here does
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        yield replace(lm, model=twin)
    with torch.no_grad():
        pairs = zip(lm.model.named_parameters(), twin.named_parameters(), strict=True)
        for (name, parameter), (other, shard) in pairs:
            assert name == other
            assert isinstance(shard, DTensor)
            parameter.data = shard.full_tensor()


def units_of(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that are gathered one at a time: blocks, the rest of the backbone, and an untied head.

    The backbone is the root, because it is what a step calls; the head is a unit of its own, which is never
    called.
    """
    backbone, embedding = backbone_of(model), model.get_input_embeddings()
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    blocks = [m for m in backbone.modules() if type(m).__name__ in (model._no_split_modules or ())]
    return [*blocks, backbone] if head.weight is embedding.weight else [*blocks, backbone, head]


def _apply_fsdp(model: PreTrainedModel, policy: MixedPrecisionPolicy) -> None:
    mesh = init_device_mesh(next(model.parameters()).device.type, (distributed.size(),))
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embedding.weight
    for unit in units_of(model):
        # the backbone too, or its parameters would stay whole after a forward without a backward
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        assert isinstance(unit, FSDPModule)
        # gradients are summed, not averaged: a loss is a sum over the step
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    if tied:
        head.weight = embedding.weight
