"""The gradients of one optimiser step, which are exact for every micro-batch, chunk and number of processes.

Where a loss is a sum over sequences, each micro-batch is carried through backbone, head and back by itself. A
loss that pools over the step is no such sum: with more than one micro-batch the step then runs twice over the
backbone (after L. Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
https://arxiv.org/abs/2101.06983): once without a graph to collect the hidden states of all micro-batches,
then the loss over all of them gives its gradient there, and once more, micro-batch by micro-batch, to carry
that gradient through the backbone.

Several processes each take a part of every role's sequences; terms and gradients add up. Processes exchange
what a loss pools over the step (losses/exchange.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mari_cli import distributed
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import Head, backbone_of, head_of
from mari_cli.losses.engine import Gradients
from mari_cli.losses.exchange import exchange
from mari_cli.losses.objective import Objective, Terms, differentiate
from mari_cli.losses.step import Positions, Rows, Step, Supported
from mari_cli.models.backbone import choose_layer, hidden_states
from mari_cli.models.load import LanguageModel
from mari_cli.transfer import sent

Group = Mapping[str, Sequence[Item]]
"""The items of a step by role: `forget`, `retain`, `alternative`."""

CHUNK_BYTES = 128 * 2**20
"""Size of the float32 logits of one chunk, where `train.chunk` is null."""

KEPT_BYTES = 2 * 2**30
"""Most float32 logits that a pooled step holds, where `train.keep_logits` is null."""

MORE_PADDING = 1.05
"""A forward pass of all roles together may have at most so many times the tokens of separate passes."""


@dataclass(frozen=True)
class Recalled:
    """The reference's predictions and states for some items of a step."""

    states_ND: Tensor | None = None
    log_p_S: Tensor | None = None
    supported_MK: tuple[Tensor, Tensor] | None = None
    """Tokens and their probabilities at each forget position."""
    layer_ND: Tensor | None = None
    """Hidden states of the layer that the loss reads."""

    def nothing(self) -> "Recalled":
        """The same fields, for no item."""
        return Recalled(
            None if self.states_ND is None else self.states_ND[:0],
            None if self.log_p_S is None else self.log_p_S[:0],
            None if self.supported_MK is None else (self.supported_MK[0][:0], self.supported_MK[1][:0]),
            None if self.layer_ND is None else self.layer_ND[:0],
        )


@dataclass(frozen=True)
class Reference:
    """The model before the first step, as far as a loss reads it."""

    recall: Callable[[str, range], Recalled] = lambda role, at: Recalled()
    """Returns the reference for the items ``at`` of a role's part of the step."""
    head: Head | None = None


@dataclass(frozen=True)
class States:
    """Hidden states at the supervised positions of some items."""

    last_ND: Tensor
    layer_ND: Tensor | None = None
    """Of the layer that the loss reads."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "States":
        return States(change(self.last_ND), None if self.layer_ND is None else change(self.layer_ND))

    def __len__(self) -> int:
        return len(self.last_ND)


def positions_of(items: Sequence[Item], step_items: Sequence[Item]) -> Positions:
    """Where ``items``, a part of ``step_items``, are supervised."""
    targets = [item.labels for item in items]
    lengths = torch.tensor([len(labels) for labels in targets], dtype=torch.long)
    return Positions(
        torch.tensor([label for labels in targets for label in labels], dtype=torch.long),
        torch.repeat_interleave(torch.arange(len(items)), lengths),
        torch.tensor([i for labels in targets for i in range(len(labels))], dtype=torch.long),
        len(items),
        sum(item.num_targets for item in step_items),
        len(step_items),
    )


def backward(
    lm: LanguageModel,
    groups: Group,
    objective: Objective,
    *,
    reference: Reference | None = None,
    micro_batch: int | None = None,
    chunk: int | None = None,
    keep_logits: bool | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    retain_weight: Tensor | None = None,
    reduced_elsewhere: bool = False,
) -> Terms:
    """Accumulate the gradient of ``objective`` on ``lm``'s parameters; return its terms, on the device.

    ``micro_batch`` is the number of sequences of each role in a forward pass, None for all at once; ``chunk``
    that of positions whose logits are made at one time, and ``keep_logits`` whether those of a pool are held
    until it is averaged (None: where they are at most `KEPT_BYTES`). ``scale`` multiplies the loss before its
    gradient is taken (loss scaling in float16). ``retain_weight`` as in `Step`. ``reduced_elsewhere``: the
    caller takes each gradient away as soon as it is made, in float32, as FSDP does.
    """
    reference = reference or Reference()
    cuts = {role: _cut(len(items), micro_batch) for role, items in groups.items()}
    head = operand_head(lm)
    vocabulary = len(head.weight_VD)
    if keep_logits is None:
        keep_logits = logits_bytes(groups, vocabulary) <= KEPT_BYTES

    read = objective.needs.states
    layer = None if read is None else choose_layer(lm.model, read.layer)
    forward = partial(_forward, lm, layer)

    def through_head(parts: Mapping[str, range], h: Mapping[str, States]) -> tuple[Terms, Gradients]:
        rows, step, whole = _assemble(objective, groups, parts, h, reference, retain_weight)
        return exchange(
            objective,
            rows,
            step,
            whole,
            partial(
                differentiate,
                objective,
                head=head,
                chunk=chunk or chunk_for(vocabulary),
                reference=reference.head,
                scale=scale,
                keep_logits=keep_logits,
            ),
        )

    passes = max(len(parts) for parts in cuts.values())
    total: Terms = {}
    narrow = []
    if passes > 1 and not reduced_elsewhere:
        narrow = [p for p in lm.model.parameters() if p.requires_grad and p.dtype.itemsize == 2]
    own = [] if reduced_elsewhere else [p for p in lm.model.parameters() if not isinstance(p, DTensor)]
    processes = distributed.GradientSum(own)
    # 16-bit gradients can be exchanged only after their float32 sums are rounded
    last_pass = nullcontext if narrow else processes.during
    with _summed_in_float32(narrow):
        if passes > 1 and objective.needs.couples:
            total = _in_two_phases(lm, forward, groups, cuts, head, through_head, last_pass)
        else:
            for k in range(passes):
                parts = {role: parts[k] for role, parts in cuts.items() if k < len(parts)}
                h = _forward_roles(lm, forward, groups, parts)
                terms, gradients = through_head(
                    parts, {role: states.each(Tensor.detach) for role, states in h.items()}
                )
                with last_pass() if k == passes - 1 else nullcontext():
                    pairs = [pair for role, states in h.items() for pair in _pairs(states, gradients, role)]
                    _push(pairs, gradients, head)
                total = {name: term + total[name] if name in total else term for name, term in terms.items()}
    if narrow:
        with processes.during():
            pass
    return _summed(total, lm.device)


def operand_head(lm: LanguageModel) -> Head:
    """The head of a step: its operands have the dtype of the backbone where that has 16 bits."""
    sixteen = lm.compute.dtype != torch.float32
    return head_of(lm.model, lm.compute.dtype if sixteen else None, widens=lm.compute.widens)


def logits_bytes(groups: Group, vocabulary: int) -> int:
    """Size of all float32 logits of this process's share of a step."""
    positions = sum(items[i].num_targets for items in groups.values() for i in distributed.share(len(items)))
    return 4 * vocabulary * positions


def chunk_for(vocabulary: int) -> int:
    return max(8, CHUNK_BYTES // (4 * vocabulary) // 8 * 8)


@contextmanager
def _summed_in_float32(weights: Iterable[Tensor]) -> Iterator[None]:
    """Adds up the gradients of ``weights``, which have 16 bits, in float32 over all backward passes in the
    block, and rounds them once at its end. Added up in bfloat16, the gradients of 16 micro-batches would be
    5e-3 from those of one."""
    sums: dict[Tensor, Tensor] = {}

    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        if weight in sums:
            sums[weight] += weight.grad
        else:
            sums[weight] = weight.grad.float()
        weight.grad = None

    hooks = [weight.register_post_accumulate_grad_hook(add) for weight in weights]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    while sums:
        weight, gradient = sums.popitem()
        weight.grad = gradient.to(weight.dtype)


Forward = Callable[[Sequence[Item], range], States]
ThroughHead = Callable[[Mapping[str, range], Mapping[str, States]], tuple[Terms, Gradients]]


def _in_two_phases(
    lm: LanguageModel,
    forward: Forward,
    groups: Group,
    cuts: Mapping[str, Sequence[range]],
    head: Head,
    through_head: ThroughHead,
    last_pass: Callable[..., AbstractContextManager[None]],
) -> Terms:
    random_states: dict[str, list[tuple[Tensor, Tensor | None]]] = {role: [] for role in cuts}
    collected: dict[str, States] = {}
    with torch.no_grad():
        for role, parts in cuts.items():
            outputs = []
            for part in parts:
                random_states[role].append(_random_state(lm.device))
                outputs.append(forward(groups[role], part))
            collected[role] = _joined(outputs)
    whole = {role: distributed.share(len(items)) for role, items in groups.items()}
    terms, gradients = through_head(whole, collected)
    _push([], gradients, head)

    after, in_backbone = _random_state(lm.device), set(backbone_of(lm.model).parameters())
    apart = [p for p in lm.model.parameters() if p not in in_backbone]  # the head, where it is not tied
    left = sum(map(len, cuts.values()))
    for role, parts in cuts.items():
        start = 0
        for part, random_state in zip(parts, random_states[role], strict=True):
            _set_random_state(random_state, lm.device)  # the same dropout masks as in the first pass
            states = forward(groups[role], part)
            left -= 1
            pairs = _pairs(states, gradients, role, slice(start, start + len(states)))
            start += len(states)
            with nullcontext() if left else last_pass(apart):
                _backward(pairs)
    _set_random_state(after, lm.device)
    return terms


def _summed(terms: Terms, device: torch.device) -> Terms:
    """The terms summed over all processes: each process has a part of every sum."""
    if distributed.size() == 1:
        return terms
    sums = distributed.all_reduce_sum(
        torch.stack([sent(term.detach(), device, torch.float64) for term in terms.values()])
    )
    return dict(zip(terms, sums, strict=True))


def _assemble(
    objective: Objective,
    groups: Group,
    parts: Mapping[str, range],
    h: Mapping[str, States],
    reference: Reference,
    retain_weight: Tensor | None,
) -> tuple[dict[str, Rows], Step, Callable[[], dict[str, Positions]]]:
    """For the items ``parts`` of the step: the rows that the engine reads, the step that the objective knows,
    and a function that returns the positions of the whole step."""
    positions = {
        role: positions_of([groups[role][i] for i in part], groups[role]) for role, part in parts.items()
    }
    recalled = {
        role: reference.recall(role, part) if part else reference.recall(role, range(1)).nothing()
        for role, part in parts.items()
    }
    rows = {}
    for role, states in h.items():
        of_role, device = recalled[role], states.last_ND.device
        stored = of_role.supported_MK
        rows[role] = Rows(
            states.last_ND,
            sent(positions[role].labels_N, device),
            None if of_role.states_ND is None else sent(of_role.states_ND, device),
            None if stored is None else Supported(*(sent(x, device) for x in stored)),
            states.layer_ND,
        )

    def whole() -> dict[str, Positions]:
        return {role: positions_of(groups[role], groups[role]) for role in positions}

    pooled = objective.needs.pooled
    step = Step(
        positions,
        {role: of_role.log_p_S for role, of_role in recalled.items() if of_role.log_p_S is not None},
        None if pooled is None else pooled.pools(positions, whole),
        {role: sum(item.num_targets for item in items) for role, items in groups.items()},
        {
            role: sent(of_role.layer_ND, h[role].last_ND.device)
            for role, of_role in recalled.items()
            if of_role.layer_ND is not None
        },
        retain_weight,
    )
    return rows, step, whole


Pairs = list[tuple[Tensor, Tensor]]
"""Tensors of a graph, each with the gradient of the loss there."""


def _pairs(states: States, gradients: Gradients, role: str, at: slice = slice(None)) -> Pairs:
    """The rows of ``role`` at its positions ``at``, whose hidden states are ``states``."""
    pairs = [(states.last_ND, gradients.h[role][at])]
    if states.layer_ND is not None:
        pairs.append((states.layer_ND, gradients.layer[role][at]))
    return pairs


def _backward(pairs: Pairs) -> None:
    torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])


def _push(pairs: Pairs, gradients: Gradients, head: Head) -> None:
    """One backward pass from hidden states and head together, so that tied weights get one whole gradient."""
    at = head.weight_VD if head.gradient_at is None else head.gradient_at
    of_head = ((at, gradients.head.weight_VD), (head.bias_V, gradients.head.bias_V))
    for parameter, gradient in of_head:
        if parameter is not None and gradient is not None:
            pairs.append((parameter, gradient.to(parameter.dtype)))
    # or they would be held in float32 during the backbone's pass
    gradients.head.weight_VD = gradients.head.bias_V = None
    _backward(pairs)


def _cut(size: int, micro_batch: int | None) -> list[range]:
    """The micro-batches of this process's share of ``size`` sequences; every process has equally many."""
    share = distributed.share(size)
    longest = -(-size // distributed.size())
    at_once = micro_batch or longest
    return [share[i : i + at_once] for i in range(0, longest, at_once)]


def _forward(lm: LanguageModel, layer: int | None, items: Sequence[Item], part: range) -> States:
    """Runs the backbone even where a process has no items, because all processes gather sharded weights."""
    drawn = [items[i] for i in part] or items[:1]
    states = States(*hidden_states(lm.model, lm.compute, drawn, packed=lm.layout.packed, layer=layer))
    states = states if part else states.each(lambda x_ND: x_ND[:0])
    sixteen = lm.compute.dtype != torch.float32
    return States(states.last_ND.to(lm.compute.dtype), states.layer_ND) if sixteen else states


def _joined(parts: Sequence[States]) -> States:
    layers = [states.layer_ND for states in parts if states.layer_ND is not None]
    return States(torch.cat([states.last_ND for states in parts]), torch.cat(layers) if layers else None)


def _forward_roles(
    lm: LanguageModel, forward: Forward, groups: Group, parts: Mapping[str, range]
) -> dict[str, States]:
    """Hidden states by role. Where it costs little padding all roles go through the backbone at once: weights
    are cast to 16 bits once, and each weight gets its gradient in one piece.

    The whole step decides about that, because every process must call the backbone equally often.
    """
    apart = sum(_rectangle(groups[role]) for role in parts)
    together = _rectangle([item for role in parts for item in groups[role]])
    if lm.layout.packed or together <= MORE_PADDING * apart:
        items = {role: [groups[role][i] for i in part] for role, part in parts.items()}
        everything = [item for of_role in items.values() for item in of_role]
        some = next(iter(groups.values()))
        states = forward(everything or some, range(len(everything)))
        counts = [sum(item.num_targets for item in of_role) for of_role in items.values()]
        last = states.last_ND.split(counts)
        layers = [None] * len(counts) if states.layer_ND is None else states.layer_ND.split(counts)
        return {role: States(*pair) for role, *pair in zip(items, last, layers, strict=True)}
    with lm.compute.autocast():  # its 16-bit copies of the weights last until the block ends
        return {role: forward(groups[role], part) for role, part in parts.items()}


def _rectangle(items: Sequence[Item]) -> int:
    """The number of tokens, padding included."""
    return len(items) * max(len(item.input_ids) for item in items)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
