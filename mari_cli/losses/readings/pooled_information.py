"""The marginal information of pools of positions (losses/marginal.py).

I(P) of the mean prediction P of a pool has the gradient p ∘ (γ - ⟨γ, p⟩) / count at the logits of a position
in the pool, with γ = ∂I/∂P.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from mari_cli.losses import marginal
from mari_cli.losses.marginal import Pools
from mari_cli.losses.readings.reading import OfPools, Whole
from mari_cli.losses.step import Positions


@dataclass(frozen=True)
class PooledInformation(OfPools):
    """I(X;Z) of each pool [C], in nats."""

    one_pool: bool
    """False: one pool for each index of a token in its completion."""
    scope: str
    through_retain: bool
    prior: float | None
    """P(Z=1); None: from the step's counts."""
    share: float | None
    """The forget side's weight in the joint distribution; None: its share of the step's positions."""

    def pools(self, positions: Mapping[str, Positions], whole: Whole) -> Pools | None:
        """The pools of a part of the step. One pool across the step is divided by the step's counts, not this
        part's; pools by index across the step are those of the whole step."""
        everyone = self.scope == "step"
        pooled = whole() if everyone and not self.one_pool else positions
        there = {role for role, at in pooled.items() if everyone or len(at.labels_N)}
        return self.pools_of(pooled) if {"retain", "forget"} <= there else None

    def pools_of(self, positions: Mapping[str, Positions]) -> Pools:
        """With the scope `micro` the part is pooled as if it were a step, and weighted by its share of the
        step's positions."""
        retain, forget = positions["retain"], positions["forget"]
        here, there = len(forget.labels_N), len(retain.labels_N)
        step_here, step_there = forget.step_positions, retain.step_positions
        scale = 1.0
        if self.scope == "micro":
            scale = (here + there) / (step_here + step_there)
            step_here, step_there = here, there
        share = self.share if self.share is not None else step_here / (step_here + step_there)
        prior = marginal.prior_of(self.prior, retain=step_there, forget=step_here)
        if self.one_pool:
            totals = (step_there, step_here)
            pools = marginal.one_pool(there, here, totals=totals, prior=prior, share=share)
        else:
            pools = marginal.pools_by_index(retain.index_N, forget.index_N, prior=prior, share=share)
        return replace(pools, weight_C=pools.weight_C * scale)

    def of_means(
        self, mean: Mapping[str, Tensor], prior_C: Tensor, share_C: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        information_C, retain_CV, forget_CV = marginal.information_and_gradient(
            mean["retain"], mean["forget"], prior_C, share_C
        )
        return information_C, {"retain": retain_CV, "forget": forget_CV}
