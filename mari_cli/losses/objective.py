"""Objectives: from a loss's configuration to its value for an optimiser step and its gradient at hidden
states.

An objective is a function of readings (losses/readings/), divided by the counts of the whole step. So the
split of a step into micro-batches or over processes does not change it: its terms are sums over positions and
sequences, and those of the parts of a step add up.

Shapes: N positions, S sequences, C pools.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mari_cli.lm_head import Head, HeadGradient
from mari_cli.losses.base import ForgetLossConfig, HeldLossConfig, LossConfig, RetainLoss
from mari_cli.losses.engine import Gradients, Readings, head_pass, survey
from mari_cli.losses.readings import KL, HiddenStates, JensenShannon, LogP, ReverseKL
from mari_cli.losses.readings.reading import OfLogits, OfPools, OfPredictions, OfStates, Reading
from mari_cli.losses.step import Positions, Rows, Step
from mari_cli.transfer import sent

Terms = dict[str, Tensor]
"""Named scalars; `loss` is the one to minimise, the others are its parts without their weights."""


@dataclass(frozen=True)
class Needs:
    """The readings and references that a loss needs. They determine how a step may be split and its cost."""

    readings: tuple[Reading, ...]
    nonlinear: tuple[OfLogits, ...] = ()
    """Readings in which the loss is not linear: they are read before its gradient is taken. Hidden states of
    a layer are always read before, so they need not be listed."""
    reference_log_p: tuple[str, ...] = ()
    """Roles that need the reference's log-probability of each sequence."""
    reference_layer: tuple[str, ...] = ()
    """Roles that need the reference's hidden states at the layer that the loss reads."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role with items in a step, in the order in which the backbone sees them."""
        asked = {role for reading in self.readings for role in reading.roles}
        return tuple(role for role in ("forget", "retain", "alternative") if role in asked)

    @property
    def beside_reference(self) -> tuple[str, ...]:
        """Roles whose predictions are compared with the reference's."""
        return tuple(dict.fromkeys(reading.role for reading in self.readings if reading.beside_reference))

    @property
    def stored_tokens(self) -> int | None:
        """Tokens stored for each forget position's distribution; None: the loss needs no distribution."""
        return next((r.stored_tokens for r in self.readings if isinstance(r, OfPredictions)), None)

    @property
    def states(self) -> OfStates | None:
        """A reading of the hidden states of a layer, or None. A loss reads one layer, of any roles."""
        return next((reading for reading in self.readings if isinstance(reading, OfStates)), None)

    @property
    def pooled(self) -> OfPools | None:
        """The reading because of which the loss is not a sum over sequences, or None."""
        return next((reading for reading in self.readings if isinstance(reading, OfPools)), None)

    @property
    def coupling(self) -> str | None:
        """The scope over which the loss pools: the `step`, or each `micro`-batch, whose loss is a part of the
        step's. None: the loss is a sum over sequences."""
        return None if self.pooled is None else self.pooled.scope

    @property
    def couples(self) -> bool:
        """Whether the loss needs all sequences of a step at once."""
        return self.coupling == "step"

    @property
    def holds_logits(self) -> bool:
        """Whether it saves time to keep the logits of a step in memory."""
        return self.pooled is not None and self.pooled.one_pool


@dataclass(frozen=True)
class RetainWeight:
    """The weight of the retain term, for a loss whose steps change this weight."""

    first: float
    after: Callable[[Tensor, Terms, int], Tensor]
    """The weight after a step, from the weight in it, its terms, and the number of steps before it."""


@dataclass(frozen=True)
class Objective:
    terms: Callable[[Step, Readings], Terms]
    needs: Needs
    retain_weight: RetainWeight | None = None


def build(config: LossConfig) -> Objective:
    """The objective of ``config``. Raises ValueError for an unknown kind."""
    return config.objective()


# -- what losses are made of ---------------------------------------------------------------------------------


def step_mean(
    reading: Reading, step: Step, readings: Readings, formula: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """This part's contribution to the mean over the step's positions of a reading, or of its ``formula``."""
    if reading not in readings:
        return torch.zeros(())
    value_N = formula(readings[reading]) if formula else readings[reading]
    return value_N.sum() / step.positions[reading.role].step_positions


def mean_nll(role: str, step: Step, readings: Readings) -> Tensor:
    """This part's contribution to the mean negative log-likelihood over the step's positions, in nats."""
    return step_mean(LogP(role), step, readings, torch.neg)


def sequence_sums(value_N: Tensor, positions: Positions) -> Tensor:
    """The sum of ``value_N`` over the positions of each sequence [S]."""
    sequence_N = sent(positions.sequence_N, value_N.device)
    return value_N.new_zeros(positions.sequences).index_add(0, sequence_N, value_N)


def step_distance(h_ND: Tensor, target: Tensor, positions: Positions) -> Tensor:
    """This part's contribution to the mean over the step's sequences of (1/T) Σ_t ‖h_t - target_t‖², T the
    number of supervised tokens of a sequence. ``target`` [N, D] or [D]."""
    square_S = sequence_sums((h_ND - cast_like(h_ND, target)).pow(2).sum(-1), positions)
    return (square_S / cast_like(square_S, lengths(positions))).sum() / positions.step_sequences


def cast_like(other: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` on the device and in the dtype of ``other``."""
    return sent(tensor, other.device, other.dtype)


def lengths(positions: Positions) -> Tensor:
    """The number of positions of each sequence [S]."""
    return torch.bincount(positions.sequence_N, minlength=positions.sequences)


def beside_retain(
    config: ForgetLossConfig,
    forget: Callable[[Step, Readings], tuple[Tensor, Terms]],
    readings: Sequence[Reading],
    *,
    nonlinear: tuple[OfLogits, ...],
    reference_log_p: tuple[str, ...] = (),
    retain: RetainLoss | None = None,
    layer: int | None = None,
) -> Objective:
    """forget_weight · ``forget`` + retain_weight · ``retain``. ``forget`` returns the value to minimise and
    its terms; it needs ``readings``, and is not linear in ``nonlinear``: the gradient of the others is taken
    at 0. ``layer``: whose hidden states ``retain=states`` compares; None: the middle layer. Without
    ``retain`` both are those of ``config``.

    A part of a step may hold no forget item, and has none of ``readings`` then: ``forget`` returns 0 for it,
    under the same names.
    """
    if retain is None:
        assert isinstance(config, HeldLossConfig)
        retain, layer = config.retain_loss, config.retain_layer
    held = retain_side(retain, layer)

    def terms(step: Step, read: Readings) -> Terms:
        value, found = forget(step, read)
        loss = config.forget_weight * value
        if held:
            term = found[held.name] = held.value(step, read)
            weight = step.retain_weight
            loss = loss + (config.retain_weight if weight is None else cast_like(term, weight)) * term
        return {"loss": loss, **found}

    more, of_layer = ((held.reading,), held.of_layer) if held else ((), ())
    return Objective(terms, Needs((*readings, *more), nonlinear, reference_log_p, of_layer))


@dataclass(frozen=True)
class RetainSide:
    """A term that keeps the retain data: its name in tables, its reading, and its value in nats or as
    `states` measures."""

    name: str
    reading: Reading
    value: Callable[[Step, Readings], Tensor]
    """This part's contribution to the mean over the step."""
    of_layer: tuple[str, ...] = ()
    """The roles whose hidden states under the model before are needed."""


def retain_side(retain: RetainLoss, layer: int | None = None, *, reverse: bool = False) -> RetainSide | None:
    """The term of ``retain``; None of `none`. ``layer``: whose hidden states `states` compares; None: the
    middle layer. ``reverse``: `kl` is KL(model now ‖ model before)."""
    if retain is RetainLoss.none:
        return None
    if retain is RetainLoss.nll:
        return RetainSide("retain_nll", LogP("retain"), partial(mean_nll, "retain"))
    if retain is RetainLoss.states:
        states = HiddenStates("retain", layer)

        def distance(step: Step, read: Readings) -> Tensor:
            if states not in read:
                return torch.zeros(())
            return step_distance(read[states], step.reference_layer["retain"], step.positions["retain"])

        return RetainSide("retain_states", states, distance, ("retain",))
    kl = ReverseKL if reverse else KL
    reading = (JensenShannon if retain is RetainLoss.jensen_shannon else kl)("retain")
    return RetainSide(f"retain_{retain.value}", reading, partial(step_mean, reading))


def mean_beside_retain(
    config: HeldLossConfig, name: str, reading: OfLogits, formula: Callable[[Tensor], Tensor] | None = None
) -> Objective:
    """`beside_retain` of the mean, called ``name``, of a reading or of its ``formula`` over the step's
    positions."""

    def forget(step: Step, readings: Readings) -> tuple[Tensor, Terms]:
        value = step_mean(reading, step, readings, formula)
        return value, {name: value}

    return beside_retain(config, forget, [reading], nonlinear=(reading,) if formula else ())


def sequences_beside_retain(
    config: HeldLossConfig,
    name: str,
    formula: Callable[..., Tensor],
    *,
    roles: tuple[str, ...] = ("forget",),
    beside_reference: bool = False,
    length_normalised: bool = False,
) -> Objective:
    """`beside_retain` of the mean, called ``name``, of ``formula`` over the step's sequences. ``formula``
    gives [S] and gets, of each of ``roles`` in turn, log p(completion | prompt) [S] in nats, and with
    ``beside_reference`` the reference's after it; ``length_normalised``: divided by the number of tokens."""
    log_p = tuple(LogP(role) for role in roles)

    def forget(step: Step, readings: Readings) -> tuple[Tensor, Terms]:
        if LogP("forget") not in readings:
            return (nothing := torch.zeros(())), {name: nothing}
        found = []
        for role, reading in zip(roles, log_p, strict=True):
            positions, log_p_N = step.positions[role], readings[reading]
            of_role = [sequence_sums(log_p_N, positions)]
            if beside_reference:
                of_role.append(cast_like(log_p_N, step.reference_log_p[role]))
            count_S = cast_like(log_p_N, lengths(positions)) if length_normalised else 1
            found += [log_p_S / count_S for log_p_S in of_role]
        value = formula(*found).sum() / step.positions["forget"].step_sequences
        return value, {name: value}

    of_reference = roles if beside_reference else ()
    return beside_retain(config, forget, log_p, nonlinear=log_p, reference_log_p=of_reference)


FINE_TUNING = Objective(
    lambda step, readings: {"loss": mean_nll("retain", step, readings)}, Needs((LogP("retain"),))
)
"""Plain fine-tuning on the items of the role `retain`."""


# -- their gradient ------------------------------------------------------------------------------------------


def differentiate(
    objective: Objective,
    step: Step,
    rows: Mapping[str, Rows],
    head: Head,
    *,
    chunk: int,
    reference: Head | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    reduce: Callable[[Tensor], Tensor] | None = None,
    counts_pools: bool = True,
    keep_logits: bool = False,
) -> tuple[Terms, Gradients]:
    """The terms of ``objective`` over ``rows`` and the gradient of its `loss`, times ``scale``.

    The objective is linear in all readings except hidden states and those in `Needs.nonlinear`, so its
    gradient at the linear ones does not depend on their values. ``chunk``, ``reference``, ``reduce`` and
    ``keep_logits`` as in `engine.head_pass`. Each process that shares pools has the whole information of
    these pools; the terms of all processes add up if only one of them ``counts_pools``.
    """
    point = _point(objective.needs, step, rows, head, chunk=chunk, reference=reference)
    if not point:  # none of the step's items are in this part
        return objective.terms(step, point), Gradients({}, HeadGradient(head))
    with torch.enable_grad():
        for leaf in point.values():
            leaf.requires_grad_()
        loss = scale(objective.terms(step, point)["loss"])
        weights = dict(zip(point, torch.autograd.grad(loss, list(point.values())), strict=True))
    readings, gradients = head_pass(
        head, rows, step, weights, chunk=chunk, reference=reference, reduce=reduce, keep_logits=keep_logits
    )
    if not counts_pools:
        readings = {
            reading: torch.zeros_like(read) if isinstance(reading, OfPools) else read
            for reading, read in readings.items()
        }
    return objective.terms(step, readings), gradients


def _point(
    needs: Needs, step: Step, rows: Mapping[str, Rows], head: Head, *, chunk: int, reference: Head | None
) -> dict[Reading, Tensor]:
    """The point where the objective's gradient is taken: 0 for readings in which the objective is linear,
    their values for the others."""
    point: dict[Reading, Tensor] = {}
    for reading in needs.readings:
        shape = reading.shape(rows, step)
        if shape is None:
            continue
        of_role = rows[reading.role]
        if isinstance(reading, OfStates):
            point[reading] = reading.value(of_role).clone()
            continue
        dtype = torch.promote_types(of_role.h_ND.dtype, torch.float32)
        if head.dtype is None:
            dtype = torch.promote_types(dtype, head.weight_VD.dtype)
        point[reading] = torch.zeros(shape, dtype=dtype, device=of_role.h_ND.device)
    for role in dict.fromkeys(reading.role for reading in needs.nonlinear if reading in point):
        of_role_too = [reading for reading in needs.nonlinear if reading.role == role]
        values = survey(head, rows[role], of_role_too, chunk=chunk, reference=reference)
        for reading, value_N in zip(of_role_too, values, strict=True):
            point[reading].copy_(value_N)
    return point
