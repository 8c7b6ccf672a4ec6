"""From a loss's configuration to a number per optimiser step, and its gradient at the hidden states.

An objective is a function of readings (losses/engine.py) over the step's global counts: it never averages
what it happens to see, so how a step was cut into micro-batches or over processes cannot change it. Its terms
are sums over positions and sequences; those of the parts of a step add up.

Shapes: N positions, S sequences, C pools, M forget positions.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mari_cli.lm_head import Head, HeadGradient
from mari_cli.losses import marginal, preference
from mari_cli.losses.base import ForgetLossConfig, LossConfig, RetainLoss
from mari_cli.losses.engine import Gradients, Readings, Rows, log_probabilities, sweep
from mari_cli.losses.marginal import Pools
from mari_cli.losses.mari import Estimator, GradientThrough, MariConfig, PoolingScope, RetainDivergence
from mari_cli.losses.preference import DPOConfig, NPOConfig
from mari_cli.transfer import sent


@dataclass(frozen=True)
class Positions:
    """Where one role is supervised in a part of a step: known from the tokens alone, on the CPU."""

    labels_N: Tensor
    sequence_N: Tensor
    """Which sequence of the part a position belongs to."""
    index_N: Tensor
    """Index of the token in its completion or block."""
    sequences: int
    """Sequences of the part."""
    step_positions: int
    """Positions of this role in the whole step."""
    step_sequences: int

    def at(self, index_N: Tensor) -> "Positions":
        """Only those positions."""
        return replace(
            self,
            labels_N=self.labels_N[index_N],
            sequence_N=self.sequence_N[index_N],
            index_N=self.index_N[index_N],
        )


@dataclass(frozen=True)
class Step:
    """What an objective knows of a step, or of a part of it, besides its readings, by role: `forget`,
    `retain`, and `alternative`, the forget prompts with "I don't know" answers (DPO)."""

    positions: Mapping[str, Positions]
    reference_log_p: Mapping[str, Tensor] = field(default_factory=dict)
    """The reference's log p(completion | prompt) of each sequence [S], in nats."""
    pools: Pools | None = None


@dataclass(frozen=True)
class Needs:
    """What a loss wants computed for it. Roles by name."""

    log_p: tuple[str, ...] = ()
    kl: tuple[str, ...] = ()
    reverse_kl: tuple[str, ...] = ()
    anchor: tuple[str, ...] = ()
    survey: tuple[str, ...] = ()
    """Roles whose log-probabilities it is not linear in: they are read before its gradient is taken."""
    reference_log_p: tuple[str, ...] = ()
    information: MariConfig | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role with items in a step, in the order in which the trunk sees them."""
        asked = {*self.log_p, *self.beside_reference, *(("forget", "retain") if self.information else ())}
        return tuple(role for role in ("forget", "retain", "alternative") if role in asked)

    @property
    def beside_reference(self) -> tuple[str, ...]:
        """Roles whose predictions are compared with the reference's."""
        return tuple(dict.fromkeys((*self.kl, *self.reverse_kl, *self.anchor)))

    @property
    def pools(self) -> bool:
        return self.information is not None and self.information.estimator is not Estimator.context

    @property
    def supported(self) -> bool:
        return self.information is not None and not self.pools

    @property
    def couples(self) -> bool:
        """Whether the loss is more than a sum over the sequences of a step: it needs them all at once."""
        return self.pools and self.information.pooling_scope is PoolingScope.step  # type: ignore[union-attr]


Terms = dict[str, Tensor]
"""Named scalars; `loss` is the one to minimise, the others are what it is made of, unweighted."""


@dataclass(frozen=True)
class Objective:
    terms: Callable[[Step, Readings], Terms]
    needs: Needs


# -- the losses ----------------------------------------------------------------------------------------------


def _mean_nll(role: str, step: Step, readings: Readings) -> Tensor:
    """This part's share of the mean over the step's positions; so all below."""
    log_p_N = readings.log_p.get(role)
    return torch.zeros(()) if log_p_N is None else -log_p_N.sum() / step.positions[role].step_positions


def _mean_kl(step: Step, readings: Readings) -> Tensor:
    return _mean_over(readings.kl, "retain", step)


def _mean_over(readings: Mapping[str, Tensor], role: str, step: Step) -> Tensor:
    read_N = readings.get(role)
    return torch.zeros(()) if read_N is None else read_N.sum() / step.positions[role].step_positions


def _sequence_log_p(role: str, step: Step, readings: Readings, *, length_normalised: bool = False) -> Tensor:
    """log p(completion | prompt) [S], in nats: of each token on average, if ``length_normalised``."""
    positions, log_p_N = step.positions[role], readings.log_p[role]
    sequence_N = sent(positions.sequence_N, log_p_N.device)
    log_p_S = log_p_N.new_zeros(positions.sequences).index_add(0, sequence_N, log_p_N)
    return log_p_S / _as(log_p_S, _lengths(positions)) if length_normalised else log_p_S


def _as(other: Tensor, tensor: Tensor) -> Tensor:
    return sent(tensor, other.device, other.dtype)


def _lengths(positions: Positions) -> Tensor:
    return torch.bincount(positions.sequence_N, minlength=positions.sequences)


def nll(step: Step, readings: Readings) -> Terms:
    """Plain fine-tuning on whatever the step calls retain."""
    return {"loss": _mean_nll("retain", step, readings)}


def _retain_terms(kind: RetainLoss, step: Step, readings: Readings) -> Terms:
    match kind:
        case RetainLoss.none:
            return {}
        case RetainLoss.nll:
            return {"retain_nll": _mean_nll("retain", step, readings)}
        case RetainLoss.kl:
            return {"retain_kl": _mean_kl(step, readings)}


def mari(config: MariConfig, step: Step, readings: Readings) -> Terms:
    """mari_weight · I(X;Z|C) + retain_weight · KL on retain data, between reference and model, and where they
    have a weight the pointwise information of the observed tokens and the anchor on retain data."""
    read = readings.information
    if read is None:
        information = torch.zeros(())
    elif step.pools is not None:
        information = (_as(read, step.pools.weight_C) * read).sum()
    else:
        information = read.sum() / step.positions["forget"].step_positions
    reverse = config.retain_divergence is RetainDivergence.reverse
    retain_kl = _mean_over(readings.reverse_kl if reverse else readings.kl, "retain", step)
    loss = config.mari_weight * information + config.retain_weight * retain_kl
    terms = {"marginal_information": information, "retain_kl": retain_kl}
    if config.pointwise_weight:
        read = readings.pointwise
        terms["pointwise_information"] = (
            torch.zeros(()) if read is None else read.sum() / step.positions["forget"].step_positions
        )
        loss = loss + config.pointwise_weight * terms["pointwise_information"]
    if config.anchor_weight:
        terms["retain_anchor"] = _mean_over(readings.anchor, "retain", step)
        loss = loss + config.anchor_weight * terms["retain_anchor"]
    return {"loss": loss, **terms}


def ascent(config: ForgetLossConfig, retain: RetainLoss, step: Step, readings: Readings) -> Terms:
    """-forget_weight · NLL(forget) + retain_weight · what holds the retain side.

    none: gradient ascent. nll: gradient difference, B. Liu et al. 2022, https://arxiv.org/abs/2203.12817.
    kl: KL minimisation, P. Maini et al. 2024 (TOFU), https://arxiv.org/abs/2401.06121, section 3.3.
    """
    forget_nll = _mean_nll("forget", step, readings)
    retain_terms = _retain_terms(retain, step, readings)
    return _with_retain(config, {"forget_nll": forget_nll}, -forget_nll, retain_terms)


def npo(config: NPOConfig, step: Step, readings: Readings) -> Terms:
    value = torch.zeros(())
    if "forget" in readings.log_p:
        log_p_S = _sequence_log_p("forget", step, readings, length_normalised=config.length_normalised)
        reference_S = _as(log_p_S, step.reference_log_p["forget"])
        if config.length_normalised:
            reference_S = reference_S / _as(log_p_S, _lengths(step.positions["forget"]))
        value_S = preference.npo(log_p_S, reference_S, beta=config.beta)
        value = value_S.sum() / step.positions["forget"].step_sequences
    return _with_retain(config, {"npo": value}, value, _retain_terms(config.retain_loss, step, readings))


def dpo(config: DPOConfig, step: Step, readings: Readings) -> Terms:
    value = torch.zeros(())
    if "forget" in readings.log_p:
        both = []
        for role in ("alternative", "forget"):
            log_p_S = _sequence_log_p(role, step, readings)
            both += [log_p_S, _as(log_p_S, step.reference_log_p[role])]
        value = preference.dpo(*both, beta=config.beta).sum() / step.positions["forget"].step_sequences
    return _with_retain(config, {"dpo": value}, value, _retain_terms(config.retain_loss, step, readings))


def _with_retain(config: ForgetLossConfig, terms: Terms, forget: Tensor, retain: Terms) -> Terms:
    loss = config.forget_weight * forget
    for value in retain.values():
        loss = loss + config.retain_weight * value
    return {"loss": loss, **terms, **retain}


ASCENT_RETAIN = {"grad_ascent": RetainLoss.none, "grad_diff": RetainLoss.nll, "kl_ga": RetainLoss.kl}
"""Kind of the ascent family to what holds its retain side."""

FINE_TUNING = Objective(nll, Needs(log_p=("retain",)))


def build(config: LossConfig) -> Objective:
    """The objective of ``config``. To add a loss: its configuration class in config.py, its formula beside
    these, and a branch here."""
    match config:
        case MariConfig():
            of_retain = ("retain",)
            reverse = config.retain_divergence is RetainDivergence.reverse
            needs = Needs(
                kl=() if reverse else of_retain,
                reverse_kl=of_retain if reverse else (),
                anchor=of_retain if config.anchor_weight else (),
                information=config,
            )
            return Objective(lambda step, readings: mari(config, step, readings), needs)
        case NPOConfig():
            needs = replace(
                _retain_needs(config.retain_loss), survey=("forget",), reference_log_p=("forget",)
            )
            needs = replace(needs, log_p=("forget", *needs.log_p))
            return Objective(lambda step, readings: npo(config, step, readings), needs)
        case DPOConfig():
            answers = ("forget", "alternative")
            needs = replace(_retain_needs(config.retain_loss), survey=answers, reference_log_p=answers)
            needs = replace(needs, log_p=(*answers, *needs.log_p))
            return Objective(lambda step, readings: dpo(config, step, readings), needs)
        case ForgetLossConfig() if config.kind in ASCENT_RETAIN:
            retain = ASCENT_RETAIN[config.kind]
            needs = _retain_needs(retain)
            return Objective(
                lambda step, readings: ascent(config, retain, step, readings),
                replace(needs, log_p=("forget", *needs.log_p)),
            )
        case _:
            raise ValueError(f"no loss of kind `{config.kind}`")


def _retain_needs(kind: RetainLoss) -> Needs:
    retain = ("retain",)
    return Needs(log_p=retain if kind is RetainLoss.nll else (), kl=retain if kind is RetainLoss.kl else ())


# -- their gradient ------------------------------------------------------------------------------------------


def prior_of(config: MariConfig, *, retain: int, forget: int) -> float:
    """P(Z=1), of so many positions in a step."""
    return config.prior if config.prior is not None else (retain + forget) / (2 * retain + forget)


def pools_of(config: MariConfig, positions: Mapping[str, Positions]) -> Pools:
    """What a step, or a part of one, averages together.

    With `pooling_scope: micro` the part is pooled as if it were a step, and weighs what it has of the step's
    positions.
    """
    retain, forget = positions["retain"], positions["forget"]
    here, there = len(forget.labels_N), len(retain.labels_N)
    step_here, step_there = forget.step_positions, retain.step_positions
    scale = 1.0
    if config.pooling_scope is PoolingScope.micro:
        scale = (here + there) / (step_here + step_there)
        step_here, step_there = here, there
    share = config.forget_share if config.forget_share is not None else step_here / (step_here + step_there)
    prior = prior_of(config, retain=step_there, forget=step_here)
    if config.estimator is Estimator.pooled:
        pools = marginal.one_pool(there, here, totals=(step_there, step_here), prior=prior, share=share)
    else:
        pools = marginal.pools_by_index(retain.index_N, forget.index_N, prior=prior, share=share)
    return replace(pools, weight_C=pools.weight_C * scale)


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

    The objective is linear in all readings but those it wants surveyed, so its gradient at the readings does
    not wait for them. ``chunk``, ``reference``, ``reduce`` and ``keep_logits`` as in `engine.sweep`. Of the
    processes that share pools each has their whole information; the terms of all add up if only one of them
    ``counts_pools``.
    """
    needs = objective.needs
    blank = _blank(needs, step, rows, head)
    for role in needs.survey:
        if role in rows:
            log_p_N = log_probabilities(head, rows[role].h_ND, rows[role].labels_N, chunk=chunk)
            blank.log_p[role].copy_(log_p_N)
    leaves = [
        *blank.log_p.values(),
        *blank.kl.values(),
        *blank.reverse_kl.values(),
        *blank.anchor.values(),
    ]
    leaves += [read for read in (blank.information, blank.pointwise) if read is not None]
    if not leaves:  # none of the step's items are in this part
        return objective.terms(step, blank), Gradients({}, HeadGradient(head))
    with torch.enable_grad():
        for leaf in leaves:
            leaf.requires_grad_()
        loss = scale(objective.terms(step, blank)["loss"])
        found = iter(torch.autograd.grad(loss, leaves))
    weights = Readings(
        {role: next(found) for role in blank.log_p},
        {role: next(found) for role in blank.kl},
        {role: next(found) for role in blank.reverse_kl},
        {role: next(found) for role in blank.anchor},
        None if blank.information is None else next(found),
        None if blank.pointwise is None else next(found),
    )
    through_retain = (
        needs.information is not None and needs.information.gradient_through is GradientThrough.both
    )
    readings, gradients = sweep(
        head,
        rows,
        weights,
        chunk=chunk,
        reference=reference,
        pools=step.pools,
        through_retain=through_retain,
        reduce=reduce,
        keep_logits=keep_logits,
    )
    if not counts_pools and readings.information is not None:
        readings = replace(readings, information=torch.zeros_like(readings.information))
    return objective.terms(step, readings), gradients


def _blank(needs: Needs, step: Step, rows: Mapping[str, Rows], head: Head) -> Readings:
    """Readings of the right shapes, all zero."""

    def zeros(role: str, size: int) -> Tensor:
        h_ND = rows[role].h_ND
        dtype = torch.promote_types(h_ND.dtype, torch.float32)
        if head.dtype is None:
            dtype = torch.promote_types(dtype, head.weight_VD.dtype)
        return torch.zeros(size, dtype=dtype, device=h_ND.device)

    def by_role(roles: Collection[str]) -> dict[str, Tensor]:
        return {role: zeros(role, len(rows[role].h_ND)) for role in roles if role in rows}

    information = pointwise = None
    if needs.information is not None and "forget" in rows:
        information = zeros("forget", len(rows["forget"].h_ND) if step.pools is None else len(step.pools))
        if needs.information.pointwise_weight:
            pointwise = zeros("forget", len(rows["forget"].h_ND))
    return Readings(
        by_role(needs.log_p),
        by_role(needs.kl),
        by_role(needs.reverse_kl),
        by_role(needs.anchor),
        information,
        pointwise,
    )
