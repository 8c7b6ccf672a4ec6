"""The exchange between processes. It makes a loss that pools over the step exact, however the step is shared.

Each process has a range of every role's sequences; terms and gradients of all processes add up. A loss that
is a sum over sequences exchanges nothing here. The exchange is part of the loss because the gradient of a
pool is known only after all processes have read their part of the pool.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.losses.engine import Gradients
from mari_cli.losses.marginal import own_pools
from mari_cli.losses.objective import Objective, Terms
from mari_cli.losses.readings.reading import Whole
from mari_cli.losses.step import Positions, Rows, Step
from mari_cli.transfer import sent

Differentiate = Callable[..., tuple[Terms, Gradients]]
"""`objective.differentiate` as a function of (step, rows) and its further arguments by name."""


def exchange(
    objective: Objective, rows: Mapping[str, Rows], step: Step, whole: Whole, differentiate: Differentiate
) -> tuple[Terms, Gradients]:
    """This process's part of terms and gradients. ``whole``: the positions of the whole step."""
    pooled = objective.needs.pooled
    if pooled is not None and objective.needs.couples and distributed.size() > 1:
        if pooled.one_pool:  # processes sum its two vectors of predictions, 2V numbers
            return differentiate(
                step, rows, reduce=distributed.all_reduce_sum, counts_pools=distributed.is_rank_zero()
            )
        return _by_pools(rows, step, whole(), differentiate)
    # no other process takes part in the lines below
    there = {role for role in rows if step.positions[role].sequences}
    terms, gradients = differentiate(
        replace(step, positions={role: step.positions[role] for role in there}),
        {role: rows[role] for role in rows if role in there},
    )
    h = {role: torch.zeros_like(of_role.h_ND) for role, of_role in rows.items()}
    layer = {
        role: torch.zeros_like(of_role.layer_ND)
        for role, of_role in rows.items()
        if of_role.layer_ND is not None
    }
    return terms, replace(gradients, h=h | gradients.h, layer=layer | gradients.layer)


def _by_pools(
    rows: Mapping[str, Rows], step: Step, whole: Mapping[str, Positions], differentiate: Differentiate
) -> tuple[Terms, Gradients]:
    """Many pools over all processes: each process takes whole pools. The processes exchange hidden states,
    which are far fewer numbers than predictions."""
    processes = distributed.size()
    assert step.pools is not None
    pools, owned = own_pools(step.pools, processes=processes, process=distributed.rank())
    lengths = {role: _lengths(at, processes) for role, at in whole.items()}
    positions, own_rows = {}, {}
    for role, of_role in rows.items():
        own_N = owned[role]
        positions[role] = whole[role].at(own_N)
        on_device_N = sent(own_N, of_role.h_ND.device)

        def gather_rows(x_ND: Tensor, role: str = role, index_N: Tensor = on_device_N) -> Tensor:
            return distributed.all_gather(x_ND, lengths[role])[index_N]

        own_rows[role] = Rows(
            gather_rows(of_role.h_ND),
            sent(positions[role].labels_N, of_role.h_ND.device),
            None if of_role.reference_ND is None else gather_rows(of_role.reference_ND),
        )
    terms, gradients = differentiate(replace(step, positions=positions, pools=pools), own_rows)
    h = {}
    for role, of_role in rows.items():
        whole_ND = of_role.h_ND.new_zeros(sum(lengths[role]), of_role.h_ND.shape[-1])
        whole_ND[sent(owned[role], whole_ND.device)] = gradients.h[role]
        h[role] = distributed.all_reduce_sum(whole_ND).split(lengths[role])[distributed.rank()]
    return terms, replace(gradients, h=h)


def _lengths(at: Positions, processes: int) -> list[int]:
    """The number of positions of a role in each process."""
    counts = torch.bincount(at.sequence_N, minlength=at.sequences).tolist()
    return [sum(counts[i] for i in distributed.share(at.sequences, of=k)) for k in range(processes)]
