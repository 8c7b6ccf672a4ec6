"""From a loss's configuration to one number per optimiser step.

An objective sees everything of the step at once, and reduces once, over the step's global counts: how the
step was cut into micro-batches cannot change it. That is the seam for a leaner engine: replace
`Positions.logits_NV` by hidden states and a head, and nothing outside this room notices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.config import (
    AscentConfig,
    DPOConfig,
    Estimator,
    GradientThrough,
    LossConfig,
    MariConfig,
    NPOConfig,
    RetainLoss,
)
from mari_cli.losses import likelihood, marginal, preference


@dataclass(frozen=True)
class Positions:
    """The supervised positions of one corpus in one step. N positions, V vocabulary, S sequences."""

    logits_NV: Tensor
    labels_N: Tensor
    sequence_N: Tensor
    """Which sequence of the step a position belongs to."""
    index_N: Tensor
    """Index of the token in its completion or block."""
    sequences: int

    def nll(self) -> Tensor:
        return likelihood.token_nll(self.logits_NV, self.labels_N).mean()

    def log_probability_S(self, *, length_normalised: bool = False) -> Tensor:
        log_p_S = likelihood.sequence_log_probability(
            self.logits_NV, self.labels_N, self.sequence_N, self.sequences
        )
        if length_normalised:
            log_p_S = log_p_S / torch.bincount(self.sequence_N, minlength=self.sequences)
        return log_p_S


@dataclass(frozen=True)
class Reference:
    """The frozen model's view of the same step, as far as the loss asks for it.

    M forget positions, D hidden size.
    """

    retain_NV: Tensor | None = None
    """Logits at the retain positions."""
    forget: Positions | None = None
    alternative: Positions | None = None
    retain_states_ND: Tensor | None = None
    """Hidden states of the layer that defines contexts."""
    forget_states_MD: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What an objective sees. ``alternative`` holds the forget prompts with "I don't know" answers (DPO)."""

    forget: Positions | None = None
    retain: Positions | None = None
    alternative: Positions | None = None
    reference: Reference = Reference()


@dataclass(frozen=True)
class Needs:
    """What a loss wants computed for it."""

    retain: bool = True
    retain_reference: bool = False
    forget_reference: bool = False
    alternative: bool = False
    context_layer: bool = False


Terms = dict[str, Tensor]
Objective = Callable[[Step], Terms]
"""Named scalars; `loss` is the one to minimise, the others are what it is made of, unweighted."""


def nll_objective(step: Step) -> Terms:
    """Plain fine-tuning on whatever the step calls retain."""
    assert step.retain
    return {"loss": step.retain.nll()}


def _retain_term(kind: RetainLoss, step: Step) -> Terms:
    if kind is RetainLoss.none:
        return {}
    assert step.retain
    if kind is RetainLoss.nll:
        return {"retain_nll": step.retain.nll()}
    assert step.reference.retain_NV is not None
    return {"retain_kl": likelihood.kl_from_reference(step.retain.logits_NV, step.reference.retain_NV).mean()}


def mari(config: MariConfig, step: Step) -> Terms:
    """mari_weight · I(X;Z|C) + retain_weight · KL(reference ‖ model) on retain data."""
    assert step.retain
    assert step.forget
    p_r_NV, p_u_MV = step.retain.logits_NV.softmax(-1), step.forget.logits_NV.softmax(-1)
    if config.gradient_through is GradientThrough.forget:
        p_r_NV = p_r_NV.detach()
    match config.estimator:
        case Estimator.pooled:
            information = marginal.pooled_information(
                p_r_NV, p_u_MV, prior=config.prior, forget_share=config.forget_share
            )
        case Estimator.token:
            information = marginal.token_information(
                p_r_NV,
                p_u_MV,
                step.retain.index_N,
                step.forget.index_N,
                prior=config.prior,
                forget_share=config.forget_share,
            )
        case Estimator.context:
            assert step.reference.retain_states_ND is not None
            assert step.reference.forget_states_MD is not None
            information = marginal.context_information(
                p_r_NV,
                p_u_MV,
                marginal.neighbour_weights(
                    step.reference.retain_states_ND,
                    step.reference.forget_states_MD,
                    temperature=config.context.temperature,
                    neighbours=config.context.neighbours,
                ),
                prior=config.prior,
                forget_share=config.forget_share,
            )
    terms = _retain_term(RetainLoss.kl, step)
    loss = config.mari_weight * information + config.retain_weight * terms["retain_kl"]
    return {"loss": loss, "marginal_information": information, **terms}


def ascent(config: AscentConfig, step: Step, retain: RetainLoss) -> Terms:
    """-forget_weight · NLL(forget) + retain_weight · what holds the retain side.

    none: gradient ascent. nll: gradient difference, B. Liu et al. 2022, https://arxiv.org/abs/2203.12817.
    kl: KL minimisation, P. Maini et al. 2024 (TOFU), https://arxiv.org/abs/2401.06121, section 3.3.
    """
    assert step.forget
    forget_nll = step.forget.nll()
    return _with_retain(config, {"forget_nll": forget_nll}, -forget_nll, _retain_term(retain, step))


def npo(config: NPOConfig, step: Step) -> Terms:
    assert step.forget
    assert step.reference.forget
    value = preference.npo(
        step.forget.log_probability_S(length_normalised=config.length_normalised),
        step.reference.forget.log_probability_S(length_normalised=config.length_normalised),
        beta=config.beta,
    ).mean()
    return _with_retain(config, {"npo": value}, value, _retain_term(config.retain_loss, step))


def dpo(config: DPOConfig, step: Step) -> Terms:
    reference = step.reference
    assert step.forget
    assert step.alternative
    assert reference.forget
    assert reference.alternative
    value = preference.dpo(
        step.alternative.log_probability_S(),
        reference.alternative.log_probability_S(),
        step.forget.log_probability_S(),
        reference.forget.log_probability_S(),
        beta=config.beta,
    ).mean()
    return _with_retain(config, {"dpo": value}, value, _retain_term(config.retain_loss, step))


def _with_retain(config: AscentConfig, terms: Terms, forget: Tensor, retain: Terms) -> Terms:
    loss = config.forget_weight * forget
    for value in retain.values():
        loss = loss + config.retain_weight * value
    return {"loss": loss, **terms, **retain}


ASCENT_RETAIN = {"grad_ascent": RetainLoss.none, "grad_diff": RetainLoss.nll, "kl_ga": RetainLoss.kl}
"""`loss.name` of the ascent family to what holds its retain side."""


def build(config: LossConfig) -> tuple[Objective, Needs]:
    """The objective of ``config``, and what it needs computed. To add a loss: its configuration class in
    config.py, its formula beside these, and a branch here."""
    match config:
        case MariConfig():
            context = config.estimator is Estimator.context
            return lambda step: mari(config, step), Needs(retain_reference=True, context_layer=context)
        case NPOConfig():
            kind = config.retain_loss
            return lambda step: npo(config, step), Needs(
                retain=kind is not RetainLoss.none,
                retain_reference=kind is RetainLoss.kl,
                forget_reference=True,
            )
        case DPOConfig():
            kind = config.retain_loss
            return lambda step: dpo(config, step), Needs(
                retain=kind is not RetainLoss.none,
                retain_reference=kind is RetainLoss.kl,
                forget_reference=True,
                alternative=True,
            )
        case AscentConfig() if config.name in ASCENT_RETAIN:
            retain = ASCENT_RETAIN[config.name]
            return lambda step: ascent(config, step, retain), Needs(
                retain=retain is not RetainLoss.none, retain_reference=retain is RetainLoss.kl
            )
        case _:
            raise ValueError(f"no loss named `{config.name}`")
