"""A search: trials round by round, each round chosen by the rounds before; then the best trial of each method
again, on seeds that it was not chosen on.

All that a search remembers are its finished runs and `trials.json`, one line of settings and outcome a trial.
Which trials come next follows from these, so a search that was killed goes on as if it had not been.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mari_cli import config
from mari_cli.errors import UserError, counted, duration, nearest
from mari_cli.launch import saved_sweep
from mari_cli.launch.combinations import Composed, directory_name
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.lost_jobs import Failed
from mari_cli.launch.methods import (
    BUDGET,
    Method,
    as_typed,
    every_config,
    methods_as_plain,
    plan_methods,
    read_methods,
    report_changes,
    short,
)
from mari_cli.launch.run import interruptible, require_resumable
from mari_cli.launch.sweep import SweepJob, launch_composed
from mari_cli.options import Task
from mari_cli.search.aim import Aim
from mari_cli.search.plan import SearchConfig
from mari_cli.search.sampler import propose
from mari_cli.search.trials import Trial, best, middle
from mari_cli.storage import json_files
from mari_cli.storage.layout import RUN, TRIALS
from mari_cli.storage.run import Run, now


@dataclass(frozen=True)
class PlannedSearch:
    """A search of which nothing has started, or one to go on with."""

    task: str
    directory: Path
    settings: SearchConfig
    methods: tuple[Method, ...]
    launcher: tuple[str, ...]
    """Overrides that choose it."""
    command: tuple[str, ...]
    file: Path | None
    resumed: bool = False

    @cached_property
    def configs(self) -> list[config.RunConfig]:
        """Every configuration that may name a file or a model."""
        return list(every_config(self.methods, self.settings))

    def trials_of(self, method: Method) -> int:
        return self.settings.trials if method.ranges else 1

    @property
    def num_trials(self) -> int:
        return sum(map(self.trials_of, self.methods))

    @property
    def num_reports(self) -> int:
        """Runs after the search, where every method has a best trial."""
        kinds = [2 if self.settings.report_untuned and method.ranges else 1 for method in self.methods]
        return sum(kinds) * len(self.settings.report_seeds)

    @property
    def budget(self) -> dict[str, Any]:
        """By key, what each trial may spend."""
        section = config.to_plain(self.methods[0].configured({}))["train"]
        return {key: section[key.rpartition(".")[2]] for key in BUDGET[self.task]}

    @property
    def seed(self) -> int:
        """On which settings are chosen."""
        return self.methods[0].configured({}).seed


@dataclass(frozen=True)
class Report:
    """A run on data that its settings were not chosen on."""

    method: int
    tuned: bool
    """Of the best trial; else of the one in the middle."""
    seed: int
    trial: Trial
    run: str
    result: Any = None
    """Or Failed."""


@dataclass(frozen=True)
class Searched:
    trials: list[Trial]
    reports: list[Report] = field(default_factory=list)


def plan_search(composed: Composed) -> PlannedSearch:
    """Everything checked that can be before a run; nothing is written."""
    settings, methods = plan_methods(composed)
    saved_sweep.refuse_existing(composed.directory)
    return PlannedSearch(
        task=composed.task,
        directory=composed.directory,
        settings=settings,
        methods=tuple(methods),
        launcher=tuple(composed.launcher),
        command=("mari", "sweep", "--task", *composed.given.command[1:]),
        file=composed.given.file,
    )


def take_up_search(directory: Path, about: dict[str, Any], launcher: Sequence[str]) -> PlannedSearch:
    """The search in a directory, to go on with; ``about`` is what `saved_sweep.read` says of it."""
    settings, methods = read_methods(directory, about)
    saved_sweep.require_same(directory, about, list(every_config(methods, settings)))
    file = about["search"].get("file")
    planned = PlannedSearch(
        task=about["task"],
        directory=directory,
        settings=settings,
        methods=tuple(methods),
        launcher=tuple(launcher or about["launcher"]),
        command=tuple(about["command"]),
        file=Path(file) if file else None,
        resumed=True,
    )
    with saved_sweep.hold_sweep(directory):  # refused now where it is running
        for path in sorted(directory.iterdir()):
            if (path / RUN).is_file() and not Run(path).finished:
                require_resumable(Run.unfinished(path), methods[0].configured({}))
        read_trials(directory)
    return planned


def search(task: Task, planned: PlannedSearch, aim: Aim) -> Searched:
    """Run every trial that is not finished, then the runs of the report."""
    if not planned.resumed:
        _begin(planned)
    with interruptible("sweep", str(planned.directory)), saved_sweep.hold_sweep(planned.directory):
        runs = _Runs(task, planned)
        trials = _run_trials(planned, aim, runs)
        return Searched(trials, _run_reports(planned, trials, runs))


def read_trials(directory: Path) -> list[Trial]:
    """The trials of all finished rounds, in their order."""
    if not (directory / TRIALS).is_file():
        return []
    about = json_files.read_object(directory / TRIALS)
    try:
        return [Trial(**trial) for trial in about["trials"]]
    except (KeyError, TypeError) as error:
        raise json_files.damaged(directory / TRIALS, "it does not hold trials") from error


def _begin(planned: PlannedSearch) -> None:
    saved_sweep.begin(
        planned.directory,
        task=planned.task,
        command=planned.command,
        launcher=planned.launcher,
        jobs=[
            {
                "name": method.name,
                "varied": method.varied,
                "command": method.command(planned.task, {}, planned.file),
            }
            for method in planned.methods
        ],
        texts=[method.text for method in planned.methods],
        configs=planned.configs,
        search={
            **methods_as_plain(planned.settings, planned.methods),
            "file": str(planned.file) if planned.file else None,
        },
    )


# -- trials --------------------------------------------------------------------------------------------------


def _run_trials(planned: PlannedSearch, aim: Aim, runs: "_Runs") -> list[Trial]:
    recorded = read_trials(planned.directory)
    trials: list[Trial] = []
    at_once = planned.settings.at_once
    for first in range(0, planned.settings.trials, at_once):
        asked = [
            trial
            for method in planned.methods
            for trial in _ask(planned, method, trials, range(first, first + at_once))
        ]
        known = recorded[len(trials) : len(trials) + len(asked)]
        if len(known) == len(asked):
            _require_same_trials(planned.directory, asked, known)
            trials += known
            continue
        results = runs.carry_out([runs.of_trial(trial) for trial in asked], done=len(trials))
        if not first:
            _require_aim(aim, results)  # before they are kept: a search that goes on is refused again
        trials += [_tell(trial, result, aim) for trial, result in zip(asked, results, strict=True)]
        json_files.atomic_write_json(
            planned.directory / TRIALS, {"schema_version": 1, "trials": [*map(asdict, trials)]}
        )
    return trials


def _ask(planned: PlannedSearch, method: Method, trials: Sequence[Trial], numbers: range) -> list[Trial]:
    """The trials of a method in one round."""
    finished = [trial for trial in trials if trial.method == method.number]
    tried = [trial.settings for trial in finished]
    asked = []
    for number in numbers[: max(0, planned.trials_of(method) - numbers.start)]:
        settings = propose(
            method.ranges,
            finished,
            tried,
            sampler=planned.settings.sampler,
            seed=planned.settings.seed,
            method=method.name,
            trials=planned.settings.trials,
        )
        tried.append(settings)
        name = f"{method.number}-{number}_{method.name}_{short(settings)}".rstrip("_")
        asked.append(Trial(method.number, number, settings, directory_name(name)))
    return asked


def _require_same_trials(directory: Path, asked: Sequence[Trial], known: Sequence[Trial]) -> None:
    for ours, theirs in zip(asked, known, strict=True):
        if (ours.settings, ours.run) != (theirs.settings, theirs.run):
            raise UserError(
                f"`{directory / TRIALS}` holds trials of another search: `{theirs.run}` where this one has "
                f"`{ours.run}`",
                "put the file back, or start a new search with another `out=`",
            )


def _tell(trial: Trial, result: Any, aim: Aim) -> Trial:
    """A trial with what came out of it."""
    if isinstance(result, Failed):
        return replace(trial, failed=result.reason)
    value, cost = aim.value(result), aim.cost(result)
    if cost is None:
        return replace(trial, failed=f"{aim.metric} is not a finite number")
    return replace(trial, value=value, cost=cost)


def _require_aim(aim: Aim, results: Sequence[Any]) -> None:
    """Stop after the first round where no run measures what the search is for."""
    done = [result for result in results if not isinstance(result, Failed)]
    measured = {name for result in done for of in result["models"].values() for name in of["metrics"]}
    if done and aim.metric not in measured:
        raise UserError(
            f"no run measures `{aim.metric}`, which the search is for; the notes of the first say why",
            f"choose another: `sweep.aim={nearest(aim.metric, measured) or '…'}`",
        )


# -- the report's runs ---------------------------------------------------------------------------------------


def _run_reports(planned: PlannedSearch, trials: Sequence[Trial], runs: "_Runs") -> list[Report]:
    asked = []
    for method in planned.methods:
        own = [trial for trial in trials if trial.method == method.number]
        chosen = [(True, best(own))]
        if planned.settings.report_untuned and method.ranges:
            chosen.append((False, middle(own)))
        for tuned, trial in chosen:
            for seed in planned.settings.report_seeds if trial else ():
                assert trial
                name = f"{method.number}-{'best' if tuned else 'middle'}_{method.name}"
                run = directory_name(name, f"_seed={seed}")
                asked.append(Report(method.number, tuned, seed, trial, run))
    results = runs.carry_out([runs.of_report(report) for report in asked], done=len(trials))
    return [replace(report, result=result) for report, result in zip(asked, results, strict=True)]


# -- runs ----------------------------------------------------------------------------------------------------


class _Runs:
    """Runs of a search, through its launcher; it counts them, and measures how long one takes."""

    def __init__(self, task: Task, planned: PlannedSearch) -> None:
        self.task, self.planned = task, planned
        self.total = planned.num_trials + planned.num_reports
        self.seconds, self.carried_out = 0.0, 0

    def of_trial(self, trial: Trial) -> SweepJob | Failed:
        number = trial.method + trial.number * len(self.planned.methods)
        return self._job(trial.method, number, trial.settings, trial.run)

    def of_report(self, report: Report) -> SweepJob | Failed:
        changes = {**report.trial.settings, **report_changes(self.planned.settings), "seed": report.seed}
        return self._job(report.method, self.planned.num_trials, changes, report.run)

    def _job(self, method: int, number: int, changes: dict[str, Any], run: str) -> SweepJob | Failed:
        chosen = self.planned.methods[method]
        try:
            cfg = chosen.configured(changes)
        except UserError as error:  # values that exclude each other, each of which is possible
            return Failed(f"{error} ({error.hint})" if error.hint else str(error))
        return SweepJob(
            number=number,
            overrides=(),
            varied={"method": chosen.name, **{key: as_typed(value) for key, value in changes.items()}},
            config=replace(cfg, out=str(self.planned.directory / run)),
            command=chosen.command(self.planned.task, changes, self.planned.file),
        )

    def carry_out(self, jobs: Sequence[SweepJob | Failed], *, done: int) -> list[Any]:
        """The result of each, or Failed. A finished run is read, one that was cut off goes on. ``done``: runs
        of the search that came before."""
        results: dict[int, Any] = {}
        todo: list[SweepJob] = []
        for place, job in enumerate(jobs):
            if isinstance(job, Failed):
                results[place] = job
            elif Run(job.out).finished:
                results[place] = Run(job.out).result()
            else:
                todo.append(replace(job, number=place))
        if todo:
            self._say(done + len(results))
            began = time.monotonic()
            place_of_round = self.planned.directory / "launched" / now().replace(":", "-")
            experiment = Experiment(self.planned.task, list(self.planned.launcher))
            numbered = [replace(job, number=done + job.number) for job in todo]
            found = launch_composed(self.task, experiment, place_of_round, numbered, total=self.total)
            self.seconds += time.monotonic() - began
            self.carried_out += len(todo)
            results |= zip([job.number for job in todo], found, strict=True)
        return [results[place] for place in range(len(jobs))]

    def _say(self, done: int) -> None:
        if self.carried_out:
            left = self.seconds / self.carried_out * (self.total - done)
            told = f"{done} of {counted(self.total, 'run')} done, about {duration(left)} left"
            print(told, file=sys.stderr, flush=True)
