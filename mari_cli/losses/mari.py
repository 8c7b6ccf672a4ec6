"""Forgetting-MarI: marginal information plus a divergence from the model before step 1 on retain data.

S. Xu, Y. Ni, S. Broecker, T. Strohmer, "Forgetting-MarI: LLM Unlearning via Marginal Information
Regularization", 2025, https://arxiv.org/abs/2511.11914 (losses/marginal.py has the formulas).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from mari_cli.losses.base import RetainLoss, RetainTermConfig, register
from mari_cli.losses.support import ContextConfig, SupportConfig, SupportRequest, SupportSource, unread_by
from mari_cli.sections import display_name, non_negative, require

if TYPE_CHECKING:
    from mari_cli.losses.engine import Readings
    from mari_cli.losses.objective import Objective, Terms
    from mari_cli.losses.step import Step


class Estimator(StrEnum):
    pooled = "pooled"
    token = "token"
    context = "context"


class GradientThrough(StrEnum):
    forget = "forget"
    both = "both"


class PoolingScope(StrEnum):
    step = "step"
    micro = "micro"


class Divergence(StrEnum):
    jensen_shannon = "jensen_shannon"
    forward = "forward"
    reverse = "reverse"
    jeffreys = "jeffreys"


class RetainDivergence(StrEnum):
    forward = "forward"
    reverse = "reverse"


@register
@dataclass(kw_only=True)
class MariConfig(RetainTermConfig):
    """Forgetting-MarI: marginal information plus a retain loss, in the paper KL to the reference."""

    kind: str = "mari"
    estimator: Estimator = Estimator.token
    prior: float | None = 0.5
    """P(Z=1), the probability that a position comes from retain and forget together; null: by counts, with R
    retain and U forget positions (R + U) / (2 R + U)."""
    forget_share: float | None = None
    """Weight of the forget side in the joint distribution; null: its share of the step's tokens."""
    gradient_through: GradientThrough = GradientThrough.forget
    """`forget`: the retain side is a fixed target. `both`: the gradient also runs through the retain side;
    `context` refuses this, because its target is fixed."""
    pooling_scope: PoolingScope = PoolingScope.step
    """The positions that are averaged together: `step`, those of the whole optimiser step, or `micro`, those
    of each micro-batch. `micro` is cheaper, but another loss than the paper's."""
    mari_weight: float = non_negative(10.0)
    retain_loss: RetainLoss = RetainLoss.kl
    retain_divergence: RetainDivergence = RetainDivergence.forward
    """Of `retain_loss=kl`. `forward`: KL(before ‖ model); `reverse`: KL(model ‖ before)."""
    divergence: Divergence = Divergence.jensen_shannon
    """Distance of a prediction p from the supported distribution q (`context`). `jensen_shannon`: I(X;Z), as
    in the paper. `forward`: KL(q ‖ p), the limit of I/(1-prior) at prior 1. `reverse`: KL(p ‖ q), the limit
    of I/prior at prior 0. `jeffreys`: the sum of these two."""
    pointwise_weight: float = non_negative(0.0)
    """Weight of the pointwise marginal information of the observed token, log p(y)/q(y), as a Huber loss
    (`context`). The divergence hardly depends on p(y) once p(y) is small; this term does."""
    anchor_weight: float = non_negative(0.0)
    """Weight of the Huber distance of log p from log p of the model before step 1, averaged over the whole
    vocabulary, at retain positions. It also keeps improbable tokens as they were, which KL hardly sees."""
    retain_nll_weight: float = non_negative(0.0)
    """Weight of the negative log-likelihood of the retain data, beside another retain loss. KL alone keeps
    what the model before says of the retain data, and so never more of it than that model knew."""
    context: ContextConfig = field(default_factory=ContextConfig)
    support: SupportConfig = field(default_factory=SupportConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.prior is None or 0 < self.prior < 1, f"loss.prior must be between 0 and 1, got {self.prior}"
        )
        require(
            self.forget_share is None or 0 < self.forget_share <= 1,
            f"loss.forget_share must be in (0, 1], got {self.forget_share}",
        )
        require(
            self.estimator is not Estimator.context or self.gradient_through is GradientThrough.forget,
            "loss.gradient_through=both needs loss.estimator=pooled or token (loss=mari_pooled, loss=mari): "
            "the target of context is fixed",
        )
        for name, plain in {"divergence": Divergence.jensen_shannon, "pointwise_weight": 0.0}.items():
            require(
                self.estimator is Estimator.context or getattr(self, name) == plain,
                f"loss.{name}={getattr(self, name)} needs loss.estimator=context; the other estimators have "
                "presets (loss=mari, loss=mari_pooled)",
            )
        require(
            self.estimator is Estimator.context or self.support.source is SupportSource.neighbours,
            f"loss.support.source={self.support.source} needs loss.estimator=context",
        )
        require(
            self.retain_loss is not RetainLoss.none,
            "loss.retain_loss=none takes the retain data away, against which information is marginal; "
            "loss.retain_weight=0 leaves out the term",
        )
        require(
            self.retain_divergence is RetainDivergence.forward or self.retain_loss is RetainLoss.kl,
            "loss.retain_divergence=reverse needs loss.retain_loss=kl",
        )
        require(
            not self.retain_nll_weight or self.retain_loss is not RetainLoss.nll,
            "loss.retain_nll_weight is for another loss.retain_loss than nll: set loss.retain_weight",
        )
        outcomes = self.context.stored_tokens + 2  # the stored tokens, the label and the tail
        require(
            self.support.source is SupportSource.neighbours or self.support.floor * outcomes < 1,
            f"loss.support.floor={self.support.floor} is too much for each of {outcomes} outcomes "
            "(loss.context.stored_tokens, the label, the rest)",
        )

    def unread(self) -> dict[str, str]:
        if self.estimator is not Estimator.context:
            return dict.fromkeys(("context", "support"), "`loss.estimator=context`")
        found = {"pooling_scope": "`loss.estimator=pooled` or `token`"}
        if self.divergence is not Divergence.jensen_shannon:
            found |= dict.fromkeys(("prior", "forget_share"), "`loss.divergence=jensen_shannon`")
        return found | unread_by(self.support)

    @property
    def title(self) -> str:
        request = self.support_request
        by_support = request is not None and request.source is not SupportSource.neighbours
        return f"{display_name(self)} {self.support.source if by_support else self.estimator}"

    @property
    def support_request(self) -> SupportRequest | None:
        asked = self.estimator is Estimator.context
        return SupportRequest(self.support, self.context) if asked else None

    def objective(self) -> "Objective":
        """mari_weight · I(X;Z|C) + retain_weight · the retain loss, and the pointwise information of the
        observed tokens, the anchor and the NLL of the retain data where their weights are not 0."""
        import torch

        from mari_cli.losses.objective import Needs, Objective, cast_like, mean_nll, retain_side, step_mean
        from mari_cli.losses.readings import Anchor, LogP, PooledInformation, SupportInformation

        reverse = self.retain_divergence is RetainDivergence.reverse
        held, anchor = retain_side(self.retain_loss, self.retain_layer, reverse=reverse), Anchor("retain")
        assert held is not None  # `none` is refused
        pooled = PooledInformation(
            "forget",
            one_pool=self.estimator is Estimator.pooled,
            scope=self.pooling_scope.value,
            through_retain=self.gradient_through is GradientThrough.both,
            prior=self.prior,
            share=self.forget_share,
        )
        supported = SupportInformation(
            "forget",
            divergence=self.divergence,
            prior=self.prior,
            share=self.forget_share,
            floor=self.support.floor,
            stored_tokens=self.context.stored_tokens,
            pointwise=bool(self.pointwise_weight),
        )
        read = supported if self.estimator is Estimator.context else pooled

        def terms(step: "Step", readings: "Readings") -> "Terms":
            information = pointwise = torch.zeros(())
            if read in readings and step.pools is not None:
                value_C = readings[read]
                information = (cast_like(value_C, step.pools.weight_C) * value_C).sum()
            elif read in readings:
                count = step.positions["forget"].step_positions
                information, *more = (value_M.sum() / count for value_M in readings[read])
                pointwise = more[0] if more else pointwise
            kept = held.value(step, readings)
            loss = self.mari_weight * information + self.retain_weight * kept
            found = {"marginal_information": information, held.name: kept}
            if self.pointwise_weight:
                found["pointwise_information"] = pointwise
                loss = loss + self.pointwise_weight * pointwise
            if self.anchor_weight:
                found["retain_anchor"] = step_mean(anchor, step, readings)
                loss = loss + self.anchor_weight * found["retain_anchor"]
            if self.retain_nll_weight:
                found["retain_nll"] = mean_nll("retain", step, readings)
                loss = loss + self.retain_nll_weight * found["retain_nll"]
            return {"loss": loss, **found}

        weighted = [(self.anchor_weight, anchor), (self.retain_nll_weight, LogP("retain"))]
        more = (reading for weight, reading in weighted if weight)
        return Objective(terms, Needs((read, held.reading, *more), reference_layer=held.of_layer))
