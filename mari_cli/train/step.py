"""One optimiser step's gradients, exact however the step is cut.

Where a loss is a sum over sequences, each micro-batch is carried through trunk, head and back by itself. A
loss that pools over the step is no such sum: with more than one micro-batch the step then runs twice over the
trunk (after L. Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
https://arxiv.org/abs/2101.06983): once without a graph to collect the hidden states of all micro-batches,
then the loss over all of them gives its gradient there, and once more, micro-batch by micro-batch, to carry
that gradient through the trunk.

Several processes each take a stretch of every role's sequences; terms and gradients add up. What a loss pools
over the step they exchange: sums of predictions, or hidden states.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mari_cli import distributed
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import Head
from mari_cli.losses import marginal
from mari_cli.losses.divergences import divergence_of
from mari_cli.losses.engine import Gradients, Rows, Supported
from mari_cli.losses.mari import Divergence, Estimator
from mari_cli.losses.objective import Objective, Positions, Step, Terms, differentiate, pools_of, prior_of
from mari_cli.models.head import head_of
from mari_cli.models.load import LanguageModel
from mari_cli.models.trunk import hidden_states, trunk_of
from mari_cli.transfer import sent

Group = Mapping[str, Sequence[Item]]
"""The items of a step by role: `forget`, `retain`, `alternative`."""

CHUNK_BYTES = 128 * 2**20
"""Of float32 logits, where `train.chunk` does not say."""

KEPT_BYTES = 2 * 2**30
"""Of float32 logits that are held through a pooled step, where `train.keep_logits` does not say."""

MORE_PADDING = 1.05
"""How many times the tokens of separate forward passes a common one may have."""


@dataclass(frozen=True)
class Recalled:
    """What the reference said of some items of a step."""

    states_ND: Tensor | None = None
    log_p_S: Tensor | None = None
    supported_MK: tuple[Tensor, Tensor] | None = None
    """Tokens and their probabilities at each forget position."""

    def nothing(self) -> "Recalled":
        """The same of no item at all."""
        return Recalled(
            None if self.states_ND is None else self.states_ND[:0],
            None if self.log_p_S is None else self.log_p_S[:0],
            None if self.supported_MK is None else (self.supported_MK[0][:0], self.supported_MK[1][:0]),
        )


@dataclass(frozen=True)
class Reference:
    """The model before the first step, as far as a step asks for it."""

    recall: Callable[[str, range], Recalled] = lambda role, at: Recalled()
    """Of the items ``at`` in a role's part of the step."""
    head: Head | None = None


def positions_of(items: Sequence[Item], step_items: Sequence[Item]) -> Positions:
    """Where ``items``, a part of ``step_items``, are supervised."""
    targets = [item.input_ids[item.supervised_from :] for item in items]
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
    reduced_elsewhere: bool = False,
) -> Terms:
    """Accumulate the gradient of ``objective`` on ``lm``'s parameters; return its terms, on the device.

    ``micro_batch`` is the number of sequences of each role in a forward pass, None for all at once; ``chunk``
    that of positions whose logits are made at one time, and ``keep_logits`` whether those of a pool are held
    until it is averaged (None: where they are at most `KEPT_BYTES`). ``scale`` multiplies the loss before
    its gradient is taken (loss scaling in float16). ``reduced_elsewhere``: whoever calls takes each gradient
    away as it comes, in float32, as FSDP does.
    """
    reference = reference or Reference()
    cuts = {role: _cut(len(items), micro_batch) for role, items in groups.items()}
    head = operand_head(lm)
    vocabulary = len(head.weight_VD)
    if keep_logits is None:
        keep_logits = logits_bytes(groups, vocabulary) <= KEPT_BYTES

    def through_head(parts: Mapping[str, range], h: Mapping[str, Tensor]) -> tuple[Terms, Gradients]:
        rows, step = _assemble(objective, groups, parts, h, reference)
        if objective.needs.couples and distributed.size() > 1:
            assert objective.needs.information is not None
            together = _pooled if objective.needs.information.estimator is Estimator.pooled else _by_pools
        else:
            together = _alone
        return together(
            rows,
            step,
            groups,
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
    narrow = [] if passes == 1 or reduced_elsewhere else _trained_in_16_bits(lm.model)
    own = [] if reduced_elsewhere else [p for p in lm.model.parameters() if not isinstance(p, DTensor)]
    processes = distributed.GradientSum(own)
    # what is added up in float32 is only there once that is rounded
    last_pass = nullcontext if narrow else processes.during
    with _summed_in_float32(narrow):
        if passes > 1 and objective.needs.couples:
            total = _in_two_phases(lm, groups, cuts, head, through_head, last_pass)
        else:
            for k in range(passes):
                parts = {role: parts[k] for role, parts in cuts.items() if k < len(parts)}
                h = _forward_roles(lm, groups, parts)
                terms, gradients = through_head(parts, {role: h_ND.detach() for role, h_ND in h.items()})
                with last_pass() if k == passes - 1 else nullcontext():
                    _push([(h_ND, gradients.h[role]) for role, h_ND in h.items()], gradients, head)
                total = {name: term + total[name] if name in total else term for name, term in terms.items()}
    if narrow:
        with processes.during():
            pass
    return _summed(total, lm.device)


def operand_head(lm: LanguageModel) -> Head:
    """The head as a step computes with it: operands in the trunk's 16 bits where it has 16."""
    sixteen = lm.compute.dtype != torch.float32
    return head_of(lm.model, lm.compute.dtype if sixteen else None, widens=lm.compute.widens)


def logits_bytes(groups: Group, vocabulary: int) -> int:
    """Of all float32 logits of this process's share of a step."""
    positions = sum(items[i].num_targets for items in groups.values() for i in distributed.share(len(items)))
    return 4 * vocabulary * positions


def chunk_for(vocabulary: int) -> int:
    return max(8, CHUNK_BYTES // (4 * vocabulary) // 8 * 8)


def _trained_in_16_bits(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad and p.dtype.itemsize == 2]


@contextmanager
def _summed_in_float32(weights: Iterable[Tensor]) -> Iterator[None]:
    """Gradients of ``weights``, which are in 16 bits, of all backward passes within are added up in float32
    and rounded once: added up in bfloat16 those of 16 micro-batches are 5e-3 from what they are in one."""
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


ThroughHead = Callable[[Mapping[str, range], Mapping[str, Tensor]], tuple[Terms, Gradients]]


def _in_two_phases(
    lm: LanguageModel,
    groups: Group,
    cuts: Mapping[str, Sequence[range]],
    head: Head,
    through_head: ThroughHead,
    last_pass: Callable[..., AbstractContextManager[None]],
) -> Terms:
    random_states: dict[str, list[tuple[Tensor, Tensor | None]]] = {role: [] for role in cuts}
    collected: dict[str, Tensor] = {}
    with torch.no_grad():
        for role, parts in cuts.items():
            outputs = []
            for part in parts:
                random_states[role].append(_random_state(lm.device))
                outputs.append(_forward(lm, groups[role], part))
            collected[role] = torch.cat(outputs)
    whole = {role: distributed.share(len(items)) for role, items in groups.items()}
    terms, gradients = through_head(whole, collected)
    _push([], gradients, head)

    after, in_trunk = _random_state(lm.device), set(trunk_of(lm.model).parameters())
    apart = [p for p in lm.model.parameters() if p not in in_trunk]  # the head, where it is not tied
    left = sum(map(len, cuts.values()))
    for role, parts in cuts.items():
        start = 0
        for part, random_state in zip(parts, random_states[role], strict=True):
            _set_random_state(random_state, lm.device)  # the same dropout masks as in the first pass
            h_ND = _forward(lm, groups[role], part)
            left -= 1
            with nullcontext() if left else last_pass(apart):
                h_ND.backward(gradients.h[role][start : start + len(h_ND)])
            start += len(h_ND)
    _set_random_state(after, lm.device)
    return terms


Differentiate = Callable[..., tuple[Terms, Gradients]]
"""`differentiate` of (step, rows), and what else it may take by name."""


def _alone(
    rows: Mapping[str, Rows], step: Step, groups: Group, differentiate: Differentiate
) -> tuple[Terms, Gradients]:
    """What no other process has a part in."""
    there = {role for role, of_role in rows.items() if step.positions[role].sequences}
    terms, gradients = differentiate(
        replace(step, positions={role: step.positions[role] for role in there}),
        {role: rows[role] for role in rows if role in there},
    )
    nothing = {role: torch.zeros_like(of_role.h_ND) for role, of_role in rows.items()}
    return terms, replace(gradients, h=nothing | gradients.h)


def _pooled(
    rows: Mapping[str, Rows], step: Step, groups: Group, differentiate: Differentiate
) -> tuple[Terms, Gradients]:
    """One pool over all processes: they add up its two sums of predictions, 2V numbers."""
    return differentiate(step, rows, reduce=distributed.summed, counts_pools=distributed.first())


def _by_pools(
    rows: Mapping[str, Rows], step: Step, groups: Group, differentiate: Differentiate
) -> tuple[Terms, Gradients]:
    """Many pools over all processes: these exchange hidden states, far fewer numbers than predictions, and
    each takes some pools whole."""
    processes = distributed.size()
    assert step.pools is not None
    pools, owned = marginal.own_pools(step.pools, processes=processes, process=distributed.rank())
    lengths = {
        role: [
            sum(items[i].num_targets for i in distributed.share(len(items), of=k)) for k in range(processes)
        ]
        for role, items in groups.items()
    }
    positions, own_rows = {}, {}
    for role, of_role in rows.items():
        own_N, whole = owned[role], positions_of(groups[role], groups[role])
        positions[role] = whole.at(own_N)
        on_device_N = sent(own_N, of_role.h_ND.device)

        def gathered(x_ND: Tensor, role: str = role, index_N: Tensor = on_device_N) -> Tensor:
            return distributed.concatenated(x_ND, lengths[role])[index_N]

        own_rows[role] = Rows(
            gathered(of_role.h_ND),
            sent(positions[role].labels_N, of_role.h_ND.device),
            None if of_role.reference_ND is None else gathered(of_role.reference_ND),
        )
    terms, gradients = differentiate(replace(step, positions=positions, pools=pools), own_rows)
    h = {}
    for role, of_role in rows.items():
        whole_ND = of_role.h_ND.new_zeros(sum(lengths[role]), of_role.h_ND.shape[-1])
        whole_ND[sent(owned[role], whole_ND.device)] = gradients.h[role]
        h[role] = distributed.summed(whole_ND).split(lengths[role])[distributed.rank()]
    return terms, replace(gradients, h=h)


def _summed(terms: Terms, device: torch.device) -> Terms:
    """Over all processes: each has a part of every sum."""
    if distributed.size() == 1:
        return terms
    sums = distributed.summed(
        torch.stack([sent(term.detach(), device, torch.float64) for term in terms.values()])
    )
    return dict(zip(terms, sums, strict=True))


def _assemble(
    objective: Objective,
    groups: Group,
    parts: Mapping[str, range],
    h: Mapping[str, Tensor],
    reference: Reference,
) -> tuple[dict[str, Rows], Step]:
    """What the engine reads and what the objective knows, of the items ``parts`` of the step."""
    positions = {
        role: positions_of([groups[role][i] for i in part], groups[role]) for role, part in parts.items()
    }
    recalled = {
        role: reference.recall(role, part) if part else reference.recall(role, range(1)).nothing()
        for role, part in parts.items()
    }
    config = objective.needs.information
    rows = {}
    for role, h_ND in h.items():
        of_role = recalled[role]
        supported = None
        if of_role.supported_MK is not None:
            assert config is not None
            ids_MK, probability_MK = (sent(x, h_ND.device) for x in of_role.supported_MK)
            step_forget, step_retain = (
                sum(item.num_targets for item in groups[r]) for r in ("forget", "retain")
            )
            share = config.forget_share
            share = step_forget / (step_forget + step_retain) if share is None else share
            prior = prior_of(config, retain=step_retain, forget=step_forget)
            divergence = divergence_of(config, prior=prior, share=share)
            if config.divergence is not Divergence.jensen_shannon:  # the only one that allows for a q of 0
                probability_MK = probability_MK.clamp_min(config.support.floor)
            supported = Supported(ids_MK, probability_MK, divergence)
        states_ND = of_role.states_ND
        rows[role] = Rows(
            h_ND,
            sent(positions[role].labels_N, h_ND.device),
            None if states_ND is None else sent(states_ND, h_ND.device),
            supported,
        )
    pools = None
    if config is not None and objective.needs.pools:
        pooled = positions
        if objective.needs.couples and config.estimator is Estimator.token:
            pooled = {role: positions_of(groups[role], groups[role]) for role in positions}
        everyone = objective.needs.couples  # counts positions, not only this part
        there = {role for role, at in pooled.items() if everyone or len(at.labels_N)}
        if {"retain", "forget"} <= there:
            pools = pools_of(config, pooled)
    log_p = {role: of_role.log_p_S for role, of_role in recalled.items() if of_role.log_p_S is not None}
    return rows, Step(positions, log_p, pools)


def _push(pairs: list[tuple[Tensor, Tensor]], gradients: Gradients, head: Head) -> None:
    """One backward pass from the hidden states and the head, so that tied weights get both at once."""
    at = head.weight_VD if head.gradient_at is None else head.gradient_at
    for parameter, gradient in (
        (at, gradients.head.weight_VD),
        (head.bias_V, gradients.head.bias_V),
    ):
        if parameter is not None and gradient is not None:
            pairs.append((parameter, gradient.to(parameter.dtype)))
    gradients.head.weight_VD = gradients.head.bias_V = None  # not held, in float32, through the trunk's pass
    torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])


def _cut(size: int, micro_batch: int | None) -> list[range]:
    """This process's share of ``size`` sequences, in micro-batches: as many of them in every process."""
    share = distributed.share(size)
    longest = -(-size // distributed.size())
    at_once = micro_batch or longest
    return [share[i : i + at_once] for i in range(0, longest, at_once)]


def _forward(lm: LanguageModel, items: Sequence[Item], part: range) -> Tensor:
    """Also where a process has nothing to do the trunk runs: sharded weights are gathered by all."""
    drawn = [items[i] for i in part] or items[:1]
    h_ND, _ = hidden_states(lm.model, lm.compute, drawn, packed=lm.layout.packed)
    h_ND = h_ND if part else h_ND[:0]
    return h_ND if lm.compute.dtype == torch.float32 else h_ND.to(lm.compute.dtype)


def _forward_roles(lm: LanguageModel, groups: Group, parts: Mapping[str, range]) -> dict[str, Tensor]:
    """Hidden states by role. Where it costs little padding all roles go through the trunk together: weights
    are cast to 16 bits once, and each weight gets its gradient in one piece.

    Decided by the whole step: every process must call the trunk as often as the others.
    """
    apart = sum(_rectangle(groups[role]) for role in parts)
    together = _rectangle([item for role in parts for item in groups[role]])
    if lm.layout.packed or together <= MORE_PADDING * apart:
        items = {role: [groups[role][i] for i in part] for role, part in parts.items()}
        everything = [item for of_role in items.values() for item in of_role]
        some = next(iter(groups.values()))
        h_ND = _forward(lm, everything or some, range(len(everything)))
        counts = [sum(item.num_targets for item in of_role) for of_role in items.values()]
        return dict(zip(items, h_ND.split(counts), strict=True))
    with lm.compute.autocast():  # the copies of the weights that it makes serve until its end
        return {role: _forward(lm, groups[role], part) for role, part in parts.items()}


def _rectangle(items: Sequence[Item]) -> int:
    """Tokens, padding included."""
    return len(items) * max(len(item.input_ids) for item in items)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
