"""The stop rules of unlearning, and the rule which checkpoint to keep: functions of the evaluations so
far."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import isfinite

from mari_cli.config import Keep, StopConfig


@dataclass(frozen=True)
class Evaluation:
    """One evaluation during training. Losses in nats per token, accuracy as a fraction."""

    step: int
    forget_nll: float
    retain_accuracy: float
    """Token accuracy on retain validation items."""
    holdout_nll: float | None = None
    true_token_gap: float | None = None
    """How far the true tokens of the forget items stand out over their alternatives, in nats."""


@dataclass(frozen=True)
class Verdict:
    kept_step: int
    """The checkpoint to keep, of those so far."""
    stop: str | None
    """The reason to stop now, or None."""


def judge(history: Sequence[Evaluation], config: StopConfig, keep: Keep) -> Verdict:
    """When to stop, by the paper's rule, the holdout rule or the gap rule, and which checkpoint to keep.

    The paper's rule: retain accuracy is more than `retain_drop` below its start, relative; here it may be so
    for `retain_patience` steps, in which the retain term of a loss can win it back. The other rules do not
    end a run in these steps, for nothing of them would be kept. The holdout rule: the forget loss has reached
    the holdout's. The gap rule, which needs no other data: the true tokens of the forget items stand out over
    their likeliest alternatives by no more than `true_token_gap`.

    Of the checkpoints that the retain rule allows, the one is kept whose forget loss is nearest the
    holdout's: with a lower loss the data is still recognisable, with a higher loss the forgetting is. Without
    a holdout the last allowed one is kept. A checkpoint whose forget loss is not finite is broken and not
    allowed. The start (step 0, the target itself) is always allowed, and kept only where no other is.
    """
    start, latest = history[0], history[-1]
    floor = start.retain_accuracy * (1 - config.retain_drop) if config.retain_drop is not None else 0.0
    stop = None
    below = list(takewhile(lambda look: look.retain_accuracy < floor, reversed(history)))
    if below:
        if latest.step - below[-1].step >= config.retain_patience:
            stop = (
                f"retain validation accuracy {latest.retain_accuracy:.4f} is more than "
                f"{config.retain_drop:.0%} below its start {start.retain_accuracy:.4f}"
            )
            stop += f", since step {below[-1].step}" if len(below) > 1 else ""
    elif config.at_holdout and latest.holdout_nll is not None and latest.forget_nll >= latest.holdout_nll:
        stop = (
            f"forget loss {latest.forget_nll:.3f} has reached the holdout's "
            f"{latest.holdout_nll:.3f} nats/token"
        )
    elif (
        config.true_token_gap is not None
        and latest.true_token_gap is not None
        and latest.true_token_gap <= config.true_token_gap
    ):
        stop = (
            f"the true tokens of the forget items stand out by {latest.true_token_gap:.3f} nats, no more "
            f"than train.stop.true_token_gap={config.true_token_gap:g}"
        )
    if keep is Keep.last:
        return Verdict(latest.step, stop)
    allowed = [look for look in history[1:] if look.retain_accuracy >= floor and isfinite(look.forget_nll)]
    if not allowed:
        return Verdict(start.step, stop)
    if allowed[-1].holdout_nll is None:
        return Verdict(allowed[-1].step, stop)
    return Verdict(min(allowed, key=_distance_to_holdout).step, stop)


SHARE = 0.05
"""Of the way from the start to the holdout's loss: a rest of the way, or a rise, that is worth a word."""


def on_its_way(history: Sequence[Evaluation]) -> bool:
    """Whether the forget loss was still rising to the holdout's: in the last quarter of ``history`` it rose
    by more than `SHARE` of the whole way, and more than that is left."""
    start, latest = history[0], history[-1]
    if latest.holdout_nll is None or len(history) < 3:
        return False
    rise = latest.forget_nll - history[-1 - max(1, len(history) // 4)].forget_nll
    whole, left = latest.holdout_nll - start.forget_nll, latest.holdout_nll - latest.forget_nll
    return min(rise, left) > SHARE * whole > 0


def far_past(start: Evaluation, kept: Evaluation) -> bool:
    """Whether the forget loss of the kept step is further past the holdout's than it was short of it at the
    start: what knew the data too well now knows it too little by more."""
    if start.holdout_nll is None or kept.holdout_nll is None:
        return False
    return kept.forget_nll - kept.holdout_nll > start.holdout_nll - start.forget_nll > 0


def _distance_to_holdout(look: Evaluation) -> float:
    assert look.holdout_nll is not None
    return abs(look.forget_nll - look.holdout_nll)
