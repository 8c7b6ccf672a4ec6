"""What a search is told: its trials, its aim, and the data that the chosen settings are reported on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from mari_cli.errors import UserError, did_you_mean
from mari_cli.search.sampler import Sampler

PREFIX = "sweep."
MOST_TRIALS = 10_000
MOST_SEED = 2**63 - 1
DIRECTIONS = {"minimise": "down", "minimize": "down", "maximise": "up", "maximize": "up"}


@dataclass(frozen=True)
class SearchConfig:
    """The keys `sweep.…`, on the command line or in `hydra.sweeper.params` of a file."""

    trials: int
    """Of each method that is searched: the same number for all."""
    aim: str = "distance_to_gold"
    """The metric by which a method's best trial is chosen."""
    direction: str | None = None
    """`minimise` or `maximise`; null: as the metric says, where it says `as gold` the distance to gold's."""
    sampler: Sampler = Sampler.tpe
    seed: int = 0
    """Of the sampler. The runs have `seed`."""
    together: int | None = None
    """Trials of one method that start at one time, so that none learns from another of them; null: 1 with
    `tpe`, all with the others, which do not learn."""
    report_seeds: tuple[int, ...] = ()
    """The best trial of each method runs again on these: its figures are those of the report."""
    report_overrides: tuple[str, ...] = ()
    """What else is different in those runs: KEY=VALUE, as another part of the data."""
    report_untuned: bool = False
    """Run the trial in the middle of each method again, too: what somebody gets who does not search."""
    fixed: tuple[str, ...] = ()
    """Methods that are not searched: each runs once, as it comes."""

    @property
    def at_once(self) -> int:
        """Trials of one method in a round."""
        return self.together or (1 if self.sampler is Sampler.tpe else self.trials)


def read_settings(given: Mapping[str, Any]) -> SearchConfig:
    """``given`` by name, without `sweep.`; what no search can take is refused."""
    known = [field.name for field in fields(SearchConfig)]
    for name in given:
        if name not in known:
            otherwise = f"a search has {', '.join(PREFIX + word for word in known)}"
            raise UserError(
                f"unknown config key `{PREFIX}{name}`", did_you_mean(name, known, otherwise, key=PREFIX)
            )
    if given.get("trials") is None:
        raise UserError(
            "a range is searched, and `sweep.trials` does not say how often",
            "set it: `sweep.trials=20`, which each method gets; `KEY=A,B` runs every value",
        )
    aim, together = given.get("aim", SearchConfig.aim), given.get("together")
    untuned = given.get("report_untuned", False)
    found = SearchConfig(
        trials=_whole("trials", given["trials"], 1, MOST_TRIALS),
        aim=_must_be("aim", aim, isinstance(aim, str) and aim != "", "a word", SearchConfig.aim),
        direction=_direction(given.get("direction")),
        sampler=_sampler(given.get("sampler", SearchConfig.sampler)),
        seed=_whole("seed", given.get("seed", 0), 0, MOST_SEED),
        together=None if together is None else _whole("together", together, 1, MOST_TRIALS),
        report_seeds=tuple(
            _whole("report_seeds", seed, 0, MOST_SEED, "[1,2]") for seed in _read_list(given, "report_seeds")
        ),
        report_overrides=tuple(map(str, _read_list(given, "report_overrides"))),
        report_untuned=_must_be(
            "report_untuned", untuned, isinstance(untuned, bool), "true or false", "true"
        ),
        fixed=tuple(map(str, _read_list(given, "fixed"))),
    )
    if found.sampler is not Sampler.grid and find_spec("optuna") is None:
        raise UserError(
            f"`{PREFIX}sampler={found.sampler}` needs optuna, which is not installed",
            f"`pip install optuna`, or `{PREFIX}sampler=grid` over choices",
        )
    if len(set(found.report_seeds)) < len(found.report_seeds):
        raise UserError("`sweep.report_seeds` holds a seed twice", "write each seed once")
    if (found.report_overrides or found.report_untuned) and not found.report_seeds:
        key = "report_overrides" if found.report_overrides else "report_untuned"
        raise UserError(
            f"`sweep.{key}` needs `sweep.report_seeds`", "name the seeds: `sweep.report_seeds=[1,2]`"
        )
    return found


def _must_be(name: str, value: Any, fits: bool, must: str, example: str) -> Any:
    """``value`` of `sweep.NAME`, which is refused where it does not fit."""
    if not fits:
        raise UserError(f"`{PREFIX}{name}` must be {must}, got {value}", f"write `{PREFIX}{name}={example}`")
    return value


def _whole(name: str, value: Any, low: int, high: int, example: str = "6") -> Any:
    fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    return _must_be(name, value, fits, f"a whole number from {low} to {high}", example)


def _read_list(given: Mapping[str, Any], name: str) -> list[Any]:
    value = given.get(name)
    fits = isinstance(value, list | tuple | None)
    return list(_must_be(name, value, fits, "a list", f"[{value}]") or [])


def _direction(value: Any) -> str | None:
    if value is None:
        return None
    if value not in DIRECTIONS:
        raise UserError(
            f"`{PREFIX}direction` must be minimise or maximise, got {value}",
            "or leave it out: a metric says itself",
        )
    return DIRECTIONS[value]


def _sampler(value: Any) -> Sampler:
    try:
        return Sampler(value)
    except ValueError:
        raise UserError(
            f"no sampler `{value}`", f"`{PREFIX}sampler` is {', '.join(f'`{name}`' for name in Sampler)}"
        ) from None
