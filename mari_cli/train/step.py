"""One optimiser step's gradients, exact however the step is cut.

A loss that pools over the step is no sum over micro-batches. So with more than one of them the step runs
twice over the trunk (after L. Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", https://arxiv.org/abs/2101.06983): once without a graph to collect the hidden states of all
micro-batches, then the loss over all of them gives its gradient there, and once more, micro-batch by
micro-batch, to carry that gradient through the trunk.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mari_cli.data.batches import Batch, collate
from mari_cli.data.tokenize import Item
from mari_cli.losses.objective import Terms
from mari_cli.models.load import LanguageModel
from mari_cli.models.trunk import States, supervised, trunk

Group = Mapping[str, Sequence[Item]]
"""The items of a step by role: `forget`, `retain`, `alternative`."""


def backward(
    lm: LanguageModel,
    groups: Group,
    objective: Callable[[Mapping[str, States]], Terms],
    *,
    micro_batch: int | None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> dict[str, float]:
    """Accumulate the gradient of ``objective`` on ``lm``'s parameters; return its terms.

    ``objective`` maps the states of each role, over the whole step, to terms with `loss` among them.
    ``micro_batch`` is the number of sequences of each role in a forward pass, None for all at once. ``scale``
    multiplies the loss before its gradient is taken (loss scaling in float16).
    """
    batches = {role: _cut(items, micro_batch, lm.device) for role, items in groups.items()}
    if all(len(parts) == 1 for parts in batches.values()):
        states = {role: _forward(lm, parts[0]) for role, parts in batches.items()}
        terms = objective(states)
        _refuse_non_finite(terms)
        scale(terms["loss"]).backward()
        return {name: term.item() for name, term in terms.items()}

    collected: dict[str, States] = {}
    random_states: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
    with torch.no_grad():
        for role, parts in batches.items():
            random_states[role], outputs = [], []
            for part in parts:
                random_states[role].append(_random_state(lm.device))
                outputs.append(_forward(lm, part))
            collected[role] = States.concatenate(outputs)
    for states_of_role in collected.values():
        states_of_role.h_ND.requires_grad_()
    terms = objective(collected)
    _refuse_non_finite(terms)
    scale(terms["loss"]).backward()

    after = _random_state(lm.device)
    for role, parts in batches.items():
        gradient_ND = collected[role].h_ND.grad
        if gradient_ND is None:  # a role that only serves as a target
            continue
        start = 0
        for part, random_state in zip(parts, random_states[role], strict=True):
            _set_random_state(random_state, lm.device)  # the same dropout masks as in the first pass
            h_ND = _forward(lm, part).h_ND
            h_ND.backward(gradient_ND[start : start + len(h_ND)])
            start += len(h_ND)
    _set_random_state(after, lm.device)
    return {name: term.item() for name, term in terms.items()}


class NonFiniteLoss(RuntimeError):
    """The loss, or its gradient, is not a number to train on."""


def _refuse_non_finite(terms: Terms) -> None:
    bad = [name for name, term in terms.items() if not torch.isfinite(term)]
    if bad:
        raise NonFiniteLoss(f"{', '.join(bad)} not finite")


def _cut(items: Sequence[Item], micro_batch: int | None, device: torch.device) -> list[Batch]:
    size = micro_batch or len(items)
    return [collate(items[i : i + size]).to(device) for i in range(0, len(items), size)]


def _forward(lm: LanguageModel, batch: Batch) -> States:
    with lm.compute.autocast():
        h_BTD, _ = trunk(lm.model, batch.input_ids_BT)
    states = supervised(batch, h_BTD)
    dtype = torch.promote_types(states.h_ND.dtype, torch.float32)
    return States(states.h_ND.to(dtype), states.labels_N, states.sequence_N, states.index_N, states.sequences)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
