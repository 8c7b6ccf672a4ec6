"""`mari sweep`, new or taken up: every combination, or a search where a range leaves something to choose."""

from collections.abc import Sequence
from pathlib import Path

from mari_cli.launch import saved_sweep
from mari_cli.launch.combinations import compose_combinations
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.search import PlannedSearch, plan_search, take_up_search
from mari_cli.launch.sweep import PlannedSweep, plan_sweep, take_up_sweep


def plan(experiment: Experiment) -> PlannedSweep | PlannedSearch:
    """Compose and check all of it; nothing is written."""
    composed = compose_combinations(experiment)
    return plan_search(composed) if composed.is_search else plan_sweep(composed)


def take_up(directory: Path, launcher: Sequence[str] = ()) -> PlannedSweep | PlannedSearch:
    """What was begun in ``directory``, to go on with; ``launcher``: overrides that choose another one."""
    about = saved_sweep.read(directory)
    if "search" in about:
        return take_up_search(directory, about, launcher)
    return take_up_sweep(directory, about, launcher)
