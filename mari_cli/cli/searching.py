"""A search at the terminal: what it will cost, before it starts; what was tried and chosen, at its end."""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import typer

from mari_cli.cli.door import note
from mari_cli.cli.start import LoadedLater
from mari_cli.cli.tables import NOTHING, Grid, print_grid
from mari_cli.errors import counted, shell_path
from mari_cli.search.space import written

if TYPE_CHECKING:
    from mari_cli.launch import PlannedSearch, Report, Searched
    from mari_cli.search.aim import Aim
    from mari_cli.search.trials import Trial


def run_search(planned: "PlannedSearch") -> bool:
    """Plan, run and report a search; whether every run of it came to an end."""
    from mari_cli import launch
    from mari_cli.tasks.aim import choose_aim
    from mari_cli.tasks.compare import compare, describe_search

    settings = planned.settings
    aims = [choose_aim(one.configured({}), settings.aim, settings.direction) for one in planned.methods]
    aim = aims[0]
    for line in plan_lines(planned, aim):
        note(line)
    found = launch.search(LoadedLater(planned.task), planned, aim)
    print_grid(of_trials(planned, found.trials, aim))
    typer.echo()
    print_grid(of_methods(planned, found, aim))
    finished = [report for report in found.reports if not isinstance(report.result, launch.Failed)]
    for line in failures(found):
        note(line)
    described = describe_search(
        planned.directory,
        [
            (
                method.name,
                "; ".join(f"{of_key.key}: {of_key.words}" for of_key in method.ranges),
                [trial for trial in found.trials if trial.method == method.number],
                [report.run for report in finished if report.method == method.number and report.tuned],
            )
            for method in planned.methods
        ],
        aim=aim,
        seed=planned.seed,
        budget=", ".join(f"{key}={value}" for key, value in planned.budget.items()),
        report_seeds=tuple(settings.report_seeds),
    )
    if described.runs:
        page = planned.directory / "report.html"
        page.unlink(missing_ok=True)  # the report that the search wrote before it was cut off
        compare(described.runs, page, search=described)
        typer.echo()
        for sentence in described.sentences:
            typer.echo(sentence)
        typer.echo(page)
    return len(finished) == len(found.reports) and all(trial.cost is not None for trial in found.trials)


def plan_lines(planned: "PlannedSearch", aim: "Aim") -> list[str]:
    """What is going to run, with its cost: the same budget for every method that is searched."""
    settings, budget = planned.settings, planned.budget
    searched = [method for method in planned.methods if method.ranges]
    spent = ", ".join(f"{key}={value}" for key, value in budget.items())
    steps = next(iter(budget.values()))
    unit = "step" if "train.steps" in budget else "epoch"
    lines = [
        f"search in {shell_path(planned.directory)}: {counted(len(searched), 'method')} × "
        f"{counted(settings.trials, 'trial')} × {counted(steps, unit)} ({spent}), "
        f"settings chosen on seed {planned.seed}",
        f"aim: {aim.words}; sampler: {settings.sampler} (seed {settings.seed})",
    ]
    for method in planned.methods:
        told = ", ".join(f"{of_key.key}: {of_key.words}" for of_key in method.ranges)
        trials = counted(planned.trials_of(method), "trial" if method.ranges else "run")
        lines.append(f"  {method.name}: {trials}; {told or 'fixed, nothing is searched'}")
    if settings.report_seeds:
        seeds = ", ".join(map(str, settings.report_seeds))
        which = "the best trial and the one in the middle" if settings.report_untuned else "the best trial"
        lines.append(f"then {which} of each method on seeds {seeds}: {counted(planned.num_reports, 'run')}")
    else:
        lines.append("no `sweep.report_seeds`: every figure will be of the data that settings were chosen on")
    total = planned.num_trials + planned.num_reports
    lines.append(
        f"in all {counted(total, 'run')}, at most {total * steps:,} {unit}s; the time left is told after the "
        "first round"
    )
    return lines


def failures(found: "Searched") -> list[str]:
    """Why each trial and each run of the report failed that did."""
    from mari_cli.launch import Failed

    reasons = [(trial.run, trial.failed) for trial in found.trials if trial.failed is not None]
    reasons += [
        (report.run, report.result.reason) for report in found.reports if isinstance(report.result, Failed)
    ]
    return [f"{run} failed: {reason}" for run, reason in reasons]


def of_trials(planned: "PlannedSearch", trials: Sequence["Trial"], aim: "Aim") -> Grid:
    """One row a trial, in the order in which they ran."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    rows = [
        [
            planned.methods[trial.method].name.replace(" ", ","),
            str(trial.number),
            *(written(trial.settings[key]) if key in trial.settings else NOTHING for key in keys),
            _digits(trial.value),
            "failed" if trial.cost is None else "done",
        ]
        for trial in trials
    ]
    return Grid(["method", "trial", *keys, aim.metric, "status"], rows, numbers=2)


def of_methods(planned: "PlannedSearch", found: "Searched", aim: "Aim") -> Grid:
    """One row a method: its best trial, the one in the middle, and what the best came to on other seeds."""
    from mari_cli.search.trials import best, middle

    rows = []
    for method in planned.methods:
        own = [trial for trial in found.trials if trial.method == method.number]
        chosen, untuned = best(own), middle(own)
        rows.append(
            [
                method.name.replace(" ", ","),
                str(len(own)),
                _digits(chosen.value if chosen else None),
                _digits(untuned.value if untuned else None),
                *(
                    _over_seeds(found.reports, method.number, tuned, aim)
                    for tuned in ((True, False) if planned.settings.report_untuned else (True,))
                    if planned.settings.report_seeds
                ),
            ]
        )
    heads = ["method", "trials", f"best on seed {planned.seed}", f"median on seed {planned.seed}"]
    if planned.settings.report_seeds:
        seeds = ",".join(map(str, planned.settings.report_seeds))
        heads += [f"best on seeds {seeds}"]
        heads += [f"median on seeds {seeds}"] if planned.settings.report_untuned else []
    return Grid(heads, rows, numbers=1)


def _over_seeds(reports: Sequence["Report"], method: int, tuned: bool, aim: "Aim") -> str:
    values = [
        aim.value(report.result)
        for report in reports
        if report.method == method and report.tuned == tuned and isinstance(report.result, dict)
    ]
    there = [value for value in values if value is not None]
    if not there:
        return NOTHING
    return f"{_digits(sum(there) / len(there))} ({', '.join(_digits(value) for value in there)})"


def _digits(value: float | None) -> str:
    return NOTHING if value is None or not isfinite(value) else f"{value:.3f}"
