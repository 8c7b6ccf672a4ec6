"""Which settings a method tries next: a function of its ranges, of its finished trials, and of a seed.

Optuna samples (Akiba et al. 2019, Optuna: a next-generation hyperparameter optimization framework, KDD,
arXiv:1907.10902), by ask and tell. The study is made anew for every trial, from the finished trials and a
seed of the trial's own. So nothing has to be kept but the trials, and a search that was killed goes on with
the trials that it would have had.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from mari_cli.search.space import Assignment, OneOf, Range, Scalar, combinations
from mari_cli.search.trials import Trial

DIGITS = 4
"""Significant digits of a number that is drawn: people type it again."""
REDRAWS = 200
"""How often settings that were tried before are drawn anew; then a combination is enumerated, or a number is
drawn with all its digits."""


class Sampler(StrEnum):
    tpe = "tpe"  # learns from the trials before
    random = "random"
    grid = "grid"  # every combination of choices, in order


def propose(
    ranges: Sequence[Range],
    finished: Sequence[Trial],
    tried: Sequence[Assignment],
    *,
    sampler: Sampler,
    seed: int,
    method: str,
    trials: int,
) -> Assignment:
    """The next settings of a ``method`` that has ``trials`` in all.

    ``finished``: the trials that a sampler learns from (`tpe` alone does). ``tried``: the settings of all
    trials before, none of which comes twice.
    """
    if not ranges:
        return {}
    number = len(tried)
    if sampler is Sampler.grid:
        return _nth_combination(ranges, number)
    for again in range(REDRAWS):
        drawn = _ask(ranges, finished, sampler, _seed_of(seed, method, number, again), trials)
        found = {of_key.key: _rounded(of_key, drawn[of_key.key]) for of_key in ranges}
        if found not in tried:
            return found
    if combinations(ranges) == math.inf:  # an interval so narrow that its numbers have the same first digits
        return drawn
    rest = (_nth_combination(ranges, place) for place in range(int(combinations(ranges))))
    return next(settings for settings in rest if settings not in tried)


def _ask(
    ranges: Sequence[Range], finished: Sequence[Trial], sampler: Sampler, seed: int, trials: int
) -> Assignment:
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen: Any = (
        optuna.samplers.RandomSampler(seed=seed)
        if sampler is Sampler.random
        else optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, trials // 3))
    )
    study = optuna.create_study(sampler=chosen, direction="minimize")
    distributions = {of_key.key: _distribution(of_key) for of_key in ranges}
    for trial in finished:
        failed = trial.cost is None  # a pruned trial without any figure is the worst there is
        study.add_trial(
            create_trial(
                params=trial.settings,
                distributions=distributions,
                value=None if failed else trial.cost,
                state=TrialState.PRUNED if failed else TrialState.COMPLETE,
            )
        )
    return dict(study.ask(fixed_distributions=distributions).params)


def _distribution(of_key: Range) -> Any:
    from optuna import distributions

    if isinstance(of_key, OneOf):
        return distributions.CategoricalDistribution(of_key.values)
    if of_key.whole:
        return distributions.IntDistribution(int(of_key.low), int(of_key.high), log=of_key.log)
    return distributions.FloatDistribution(of_key.low, of_key.high, log=of_key.log)


def _rounded(of_key: Range, value: Scalar) -> Scalar:
    """A drawn number with as many digits as people type, inside of its interval."""
    if isinstance(of_key, OneOf) or of_key.whole or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), of_key.low), of_key.high)


def _nth_combination(ranges: Sequence[Range], number: int) -> Assignment:
    """Of choices and whole numbers, the last key changing fastest."""
    values = [
        of_key.values if isinstance(of_key, OneOf) else range(int(of_key.low), int(of_key.high) + 1)
        for of_key in ranges
    ]
    chosen = next(itertools.islice(itertools.product(*values), number, None))
    return {of_key.key: value for of_key, value in zip(ranges, chosen, strict=True)}


def _seed_of(seed: int, method: str, number: int, again: int) -> int:
    """A seed of its own for each draw: the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{method}/{number}/{again}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
