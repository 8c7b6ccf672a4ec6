"""A loss for any training loop: it takes a model, a forget batch, a retain batch and a loss's configuration.

Shapes: B sequences, T tokens, N supervised positions, S sequences, D hidden size.
"""

import inspect
from collections.abc import Mapping
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn

from mari_cli.lm_head import Head, backbone_of, check_parity, head_of
from mari_cli.losses.base import LossConfig
from mari_cli.losses.engine import log_probabilities
from mari_cli.losses.objective import differentiate, sequence_sums
from mari_cli.losses.step import Positions, Rows, Step

_CHECKED: WeakSet[nn.Module] = WeakSet()
"""Models whose logits are known to be their head applied to their last hidden state."""
CollatedBatch = Mapping[str, Tensor]
"""`input_ids` and `labels` [B, T], and `attention_mask` where sequences are padded, as the collators of
transformers make them: labels are not shifted, and a label is -100 where nothing is supervised."""


def unlearning_loss(
    config: LossConfig,
    model: nn.Module,
    forget: CollatedBatch,
    retain: CollatedBatch | None = None,
    *,
    reference: nn.Module | None = None,
    alternative: CollatedBatch | None = None,
    chunk: int = 512,
) -> Tensor:
    """The loss of one step: a scalar in nats, ready for `.backward()`.

    ``model`` is a causal language model of transformers, also in one of peft. ``reference`` is a frozen copy
    of the model before step 1, for losses that compare with it. ``alternative``: the forget prompts with the
    answers that the loss prefers, sequence by sequence (DPO). At most ``chunk`` positions have logits at one
    time. A loss that pools over a step pools over these batches; a weight that follows the steps (PDU) stays
    as ``config`` gives it.

    Raises UserError for a model whose logits are not its head applied to its last hidden state, ValueError
    where the loss needs a batch or a reference that is missing, or a distribution that only
    `mari unlearn` makes, where a batch has no labels, a sequence without any or a token that the model does
    not know, and for a ``chunk`` below 1.
    """
    if chunk < 1:
        raise ValueError(f"`chunk` must be at least 1, got {chunk}")
    model, reference = _without_wrapper(model), reference and _without_wrapper(reference)
    for one in (model, reference):
        if one is not None and one not in _CHECKED:
            with torch.autocast(next(one.parameters()).device.type, enabled=False):
                check_parity(one)
            _CHECKED.add(one)
    objective = config.objective()
    needs = objective.needs
    given = {"forget": forget, "retain": retain, "alternative": alternative}
    batches = {role: batch for role in needs.roles if (batch := given[role]) is not None}
    missing = [role for role in needs.roles if role not in batches]
    wants_reference = {*needs.beside_reference, *needs.reference_log_p, *needs.reference_layer}
    if wants_reference and reference is None:
        missing.append("reference")
    if missing:
        raise ValueError(f"loss={config.kind} needs `{missing[0]}`")
    head = head_of(model)
    embeddings: Any = model.get_input_embeddings
    known = len(embeddings().weight)
    for role, batch in batches.items():
        _check_tokens(role, batch, inputs=known, labels=len(head.weight_VD))
    if needs.stored_tokens is not None:
        raise ValueError(f"loss={config.kind} needs a distribution that only `mari unlearn` makes")
    if config.negation is not None or config.gradient_filter is not None:
        raise ValueError(
            f"loss={config.kind} changes weights or gradients itself, as only `mari unlearn` does"
        )
    sizes = {len(batches[role]["labels"]) for role in ("forget", "alternative") if role in batches}
    if len(sizes) > 1 and "alternative" in needs.reference_log_p:
        raise ValueError(f"`forget` and `alternative` need as many sequences, got {sizes}")

    layer = None
    if needs.states is not None:
        layers = int(cast(Any, model).config.get_text_config().num_hidden_layers)
        layer = layers // 2 if needs.states.layer is None else needs.states.layer
    states = {role: _states(model, batch, layer) for role, batch in batches.items()}
    positions = {role: _positions(batch) for role, batch in batches.items()}
    rows, log_p, layers_of = {}, {}, {}
    frozen: Head | None = None
    for role, (last_ND, layer_ND) in states.items():
        labels_N, reference_ND = positions[role].labels_N.to(last_ND.device), None
        if role in wants_reference:
            assert reference is not None
            frozen = frozen or head_of(reference).frozen()
            if len(frozen.weight_VD) != len(head.weight_VD):
                raise ValueError("`reference` has another vocabulary than the model")
            with torch.no_grad():
                reference_ND, of_layer_ND = _states(reference, batches[role], layer)
            if of_layer_ND is not None:
                layers_of[role] = of_layer_ND
            log_p_N = log_probabilities(frozen, reference_ND, labels_N, chunk=chunk).double()
            log_p[role] = sequence_sums(log_p_N, positions[role])
        detached = None if layer_ND is None else layer_ND.detach()
        rows[role] = Rows(last_ND.detach(), labels_N, reference_ND, None, detached)
    pooled = needs.pooled
    pools = None if pooled is None else pooled.pools(positions, lambda: positions)
    counts = {role: len(at.labels_N) for role, at in positions.items()}
    step = Step(positions, log_p, pools, counts, layers_of)
    terms, gradients = differentiate(objective, step, rows, head, chunk=chunk, reference=frozen)

    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (head.weight_VD, gradients.head.weight_VD),
        (head.bias_V, gradients.head.bias_V),
    ]
    for role, (last_ND, layer_ND) in states.items():
        pairs += [(last_ND, gradients.h.get(role)), (layer_ND, gradients.layer.get(role))]
    there = [(x, g.to(x.dtype)) for x, g in pairs if x is not None and g is not None and x.requires_grad]
    tensors, slopes = [x for x, _ in there], [g for _, g in there]
    loss: Tensor = _Carry.apply(terms["loss"], len(tensors), *tensors, *slopes)  # type: ignore[no-untyped-call]
    return loss


class _Carry(torch.autograd.Function):
    """A loss whose gradient at some tensors has been computed before the backward pass."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *tensors_and_gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors_and_gradients[count:])
        ctx.count = count
        return loss.detach().clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [upstream.to(gradient) * gradient for gradient in ctx.saved_tensors]
        return None, None, *gradients, *(None for _ in gradients)


def _check_tokens(role: str, batch: CollatedBatch, *, inputs: int, labels: int) -> None:
    """A mean over the tokens of a sequence without labels would be 0/0, and a token that the model
    does not know ends a process on CUDA. ``inputs``, ``labels``: how many the model reads, and predicts."""
    if "labels" not in batch:
        raise ValueError(f"the batch `{role}` has no `labels`")
    if batch["labels"].shape != batch["input_ids"].shape or batch["labels"].is_floating_point():
        raise ValueError(f"the labels of `{role}` must be whole numbers, one for each of its `input_ids`")
    if not len(batch["labels"]):
        raise ValueError(f"the batch `{role}` is empty")
    labels_BT = batch["labels"][:, 1:]
    supervised = labels_BT[labels_BT != -100]
    for what, tokens, known in (("label", supervised, labels), ("input", batch["input_ids"], inputs)):
        wrong = tokens[(tokens < 0) | (tokens >= known)]
        if len(wrong):
            raise ValueError(f"the {what} {wrong[0]} of `{role}` is no token: the model has {known}")
    empty = (labels_BT == -100).all(1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"sequence {empty[0]} of `{role}` has no label: all are -100 (was its answer cut off?)"
        )


def _without_wrapper(model: nn.Module) -> Any:
    """The model of transformers in one of peft, with its adapters. Raises ValueError for virtual tokens and
    for an adapter of the head, which the head's weights do not hold."""
    whole = getattr(model, "_orig_mod", model)  # of torch.compile
    inside: Any = getattr(whole, "get_base_model", lambda: whole)()
    inside = getattr(inside, "_orig_mod", inside)
    if not hasattr(inside, "get_output_embeddings"):  # DistributedDataParallel would not add up the gradients
        raise ValueError(f"`{type(model).__name__}` is neither a model of transformers nor one of peft")
    config = getattr(whole, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False) or hasattr(inside.get_output_embeddings(), "base_layer"):
        raise ValueError("virtual tokens and adapters of the language-model head are not supported")
    return inside


def _states(model: nn.Module, batch: CollatedBatch, layer: int | None) -> tuple[Tensor, Tensor | None]:
    """Hidden states [N, D] that predict a label: after the final norm, and in ``layer``."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
    mask, backbone = inputs.get("attention_mask"), backbone_of(model)
    if mask is not None and "position_ids" in inspect.signature(backbone.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)  # padding on the left takes no position
    output = backbone(**inputs, use_cache=False, output_hidden_states=layer is not None)
    at_BT = batch["labels"][:, 1:] != -100
    of_layer = None if layer is None else output.hidden_states[layer][:, :-1][at_BT]
    return output.last_hidden_state[:, :-1][at_BT], of_layer


def _positions(batch: CollatedBatch) -> Positions:
    labels_BT = batch["labels"][:, 1:].cpu()
    at_BT = labels_BT != -100
    sequence_N, _ = at_BT.nonzero(as_tuple=True)
    labels_N, index_N = labels_BT[at_BT], (at_BT.cumsum(-1) - 1)[at_BT]
    return Positions(labels_N, sequence_N, index_N, len(labels_BT), len(labels_N), len(labels_BT))
