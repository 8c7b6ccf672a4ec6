"""What a search is told: its trials, its aim, and the data that the chosen settings are reported on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from mari_cli.errors import UserError, did_you_mean
from mari_cli.search.sampler import Sampler

PREFIX = "sweep."
MOST_TRIALS = 10_000
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
    found = SearchConfig(
        trials=_whole(given, "trials", 1, MOST_TRIALS),
        aim=_text(given, "aim", SearchConfig.aim),
        direction=_direction(given.get("direction")),
        sampler=_sampler(given.get("sampler", SearchConfig.sampler)),
        seed=_whole({"seed": 0, **given}, "seed", 0, 2**63 - 1),
        together=None if given.get("together") is None else _whole(given, "together", 1, MOST_TRIALS),
        report_seeds=tuple(
            _whole({"report_seeds": seed}, "report_seeds", 0, 2**63 - 1)
            for seed in _read_list(given, "report_seeds")
        ),
        report_overrides=tuple(str(word) for word in _read_list(given, "report_overrides")),
        report_untuned=_flag(given, "report_untuned"),
        fixed=tuple(str(name) for name in _read_list(given, "fixed")),
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


def _whole(given: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(
            f"`{PREFIX}{name}` must be a whole number from {low} to {high}, got {value}",
            f"write `{PREFIX}{name}={'[1,2]' if name == 'report_seeds' else max(low, 6)}`",
        )
    return value


def _text(given: Mapping[str, Any], name: str, default: str) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or not value:
        raise UserError(f"`{PREFIX}{name}` must be a word, got {value}", f"write `{PREFIX}{name}={default}`")
    return value


def _read_list(given: Mapping[str, Any], name: str) -> list[Any]:
    value = given.get(name)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise UserError(f"`{PREFIX}{name}` must be a list, got {value}", f"write `{PREFIX}{name}=[{value}]`")
    return list(value)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise UserError(
            f"`{PREFIX}{name}` must be true or false, got {value}", f"write `{PREFIX}{name}=true`"
        )
    return value


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
