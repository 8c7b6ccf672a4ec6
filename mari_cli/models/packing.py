"""The choice, before step 1, between packing sequences into one row and padding them to one length."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mari_cli.config import Packing
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, first_line
from mari_cli.lm_head import backbone_of
from mari_cli.measure import fake
from mari_cli.measure.memory import MemoryTracker
from mari_cli.models import attention
from mari_cli.models.attention import UnsupportedAttention
from mari_cli.models.backbone import hidden_states
from mari_cli.models.device import Compute

PROBES = (12, 5, 2, 9, 5)
"""Lengths, in tokens, of the trial sequences. A row is sorted by length, so the first sequence, the longest,
is last, where a wrong mask would let this sequence see all others."""
ROUNDING, LEAK = 5e-3, 1e-5
"""The largest relative differences allowed: ROUNDING between products of different shapes, which may be in
TF32, and LEAK between products of the same shape."""
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
"""transformers' names of the types of layers that read other tokens only in their attention."""


@dataclass(frozen=True)
class Layout:
    packed: bool
    reason: str
    """The reason, for the log."""

    def __str__(self) -> str:
        return f"{'packed' if self.packed else 'padded'} ({self.reason})"


def choose_layout(model: PreTrainedModel, compute: Compute, packing: Packing) -> Layout:
    """Choose the layout, and install the attention that a packed layout needs into ``model``.

    Sequences are not packed where a trial shows other hidden states, or where the architecture reads across
    documents. In these cases UserError is raised if ``packing`` is `always`."""
    return _choose(model, packing, partial(_compare, compute=compute), "no padding, same states")


def foresee_layout(model: PreTrainedModel, packing: Packing) -> Layout:
    """The layout that `choose_layout` will choose, for a model without weights. The function finds obstacles
    to packing, but assumes that the hidden states are equal."""
    return _choose(model, packing, _run_probes, "no padding, if a try before step 1 gives the same states")


def _choose(
    model: PreTrainedModel, packing: Packing, try_it: Callable[[PreTrainedModel], str | None], why: str
) -> Layout:
    if packing is Packing.never:
        return Layout(False, "asked for")
    obstacle = _find_obstacle(model, try_it)
    if obstacle is None:
        return Layout(True, "asked for" if packing is Packing.always else f"auto: {why}")
    if packing is Packing.always:
        raise UserError(
            f"the sequences of a `{type(model).__name__}` cannot be packed: {obstacle}",
            "leave out `packing`: `auto` pads them",
        )
    return Layout(False, f"auto: {obstacle}")


def _find_obstacle(model: PreTrainedModel, try_it: Callable[[PreTrainedModel], str | None]) -> str | None:
    """The reason why ``model`` cannot be packed; None if it can, and then the attention is installed."""
    config = model.config.get_text_config()
    if unknown := sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS):
        return f"it has layers of `{unknown[0]}`"
    if getattr(config, "attention_chunk_size", None) is not None:
        return "its attention is cut into chunks"
    if not model._can_set_attn_implementation() or config._attn_implementation != attention.PLAIN:
        return f"its attention is not one that transformers can compute as `{attention.PLAIN}`"
    if "position_ids" not in inspect.signature(backbone_of(model).forward).parameters:
        return "it takes no positions"
    attention.install(model)
    try:
        obstacle = try_it(model)
    except UnsupportedAttention as error:
        obstacle = str(error)
    except (TypeError, ValueError, RuntimeError) as error:  # raised by models at arguments they do not know
        obstacle = f"it fails at a packed row: {first_line(error)}"
    if obstacle is not None:
        model.set_attn_implementation(attention.PLAIN)
    return obstacle


@torch.no_grad()
def _run_probes(model: PreTrainedModel) -> None:
    """Run a packed row through a copy of the model without weights, and raise its errors."""
    compute = Compute(torch.device("cpu"), torch.float32, "")
    world = fake.mode()
    with MemoryTracker(fake.Again(world)):
        hidden_states(fake.twin(model, world), compute, _make_probes(model, seed=0), packed=True)


@torch.no_grad()
def _compare(model: PreTrainedModel, compute: Compute) -> str | None:
    """The difference between packed hidden states and those of single sequences, in words; None if equal.

    The first comparison is without autocast, so that rounding does not hide an error; the second is with the
    autocast of training.
    """
    exact = Compute(compute.device, torch.float32, "")
    for tried in (exact, compute) if compute.dtype != torch.float32 else (exact,):
        items, others = _make_probes(model, seed=0), _make_probes(model, seed=1)
        alone = torch.cat([hidden_states(model, tried, [item])[0] for item in items])
        packed, _ = hidden_states(model, tried, items, packed=True)
        allowed, leak_allowed = ROUNDING, LEAK
        if (eps := max(torch.finfo(dtype).eps for dtype in (tried.dtype, alone.dtype))) > ROUNDING / 8:
            # rounding to 16 bits may change the choice of a router of experts, in padded sequences as well
            padded, _ = hidden_states(model, tried, items)
            allowed = max(8 * eps, 2 * _relative_difference(padded, alone))
            leak_allowed = 8 * eps
        if packed.isnan().any() and not alone.isnan().any():
            return "it does not hand documents to its attention"
        if not (gap := _relative_difference(packed, alone)) <= allowed:
            return f"its hidden states would be others (relative difference {gap:.2g})"
        mixed, _ = hidden_states(model, tried, [items[0], *others[1:]], packed=True)
        count = items[0].num_targets
        if not (leak := _relative_difference(mixed[:count], packed[:count])) <= leak_allowed:
            return f"a sequence would see the others (relative difference {leak:.2g})"
    return None


def _make_probes(model: PreTrainedModel, *, seed: int) -> list[Item]:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or max(PROBES)
    generator = torch.Generator().manual_seed(seed)
    return [
        Item(tuple(torch.randint(config.vocab_size, (size,), generator=generator).tolist()), 1, i)
        for i, size in enumerate(min(size, longest) for size in PROBES)
    ]


def _relative_difference(states: Tensor, others: Tensor) -> float:
    return float((states.float() - others.float()).norm() / others.float().norm())
