"""The list of runs below a folder, finished or not."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from mari_cli.errors import UserError, one_line
from mari_cli.places import in_order
from mari_cli.storage.layout import CONFIG, RUN
from mari_cli.storage.run import Run


class Status(StrEnum):
    finished = "finished"
    unfinished = "unfinished"
    unreadable = "unreadable"  # run.json or result.json is damaged


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of `mari runs list`."""

    path: Path
    name: str
    task: str
    status: Status
    created: str
    """ISO 8601, UTC."""
    loss: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics, by full name, of the run's last model, as far as they are numbers."""


def list_runs(root: Path) -> list[RunSummary]:
    """Every run below ``root``, oldest first. Hidden folders are skipped."""
    runs = []
    for directory, below, files in os.walk(root):
        if RUN in files and CONFIG in files:
            runs.append(_summary(Run(Path(directory))))
            # a run of several requests has one in it for each of them
            below[:] = [name for name in below if os.path.isfile(os.path.join(directory, name, RUN))]
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(runs, key=lambda run: (run.created, str(run.path)))


def run_directories(path: Path) -> list[Path]:
    """Finished runs that ``path`` stands for: itself, or the finished jobs of a sweep. Raises UserError."""
    if not path.exists():
        raise UserError(f"run directory `{path}` does not exist", "`mari runs list` shows the finished runs")
    if not path.is_dir():
        raise UserError(f"`{path}` is a file, not a run directory", f"did you mean `{path.parent}`?")
    if Run(path).finished:
        return [path]
    started = (path / RUN).is_file()
    jobs = [] if started else [job for job in path.iterdir() if Run(job).finished]
    if jobs:
        return sorted(jobs, key=lambda job: in_order(job.name))
    if started:
        Run(path).result()  # raises: it is not finished
    raise UserError(
        f"`{path}` is not a run directory: it has no `result.json`, and no finished run lies in it",
        "`mari runs list` shows the finished runs",
    )


def unfinished_jobs(path: Path) -> list[Path]:
    """The jobs of a sweep at ``path`` that began and are not finished: `run_directories` leaves them out."""
    if Run(path).finished:  # the runs in a finished run are of its requests
        return []
    return [job for job in path.iterdir() if (job / RUN).is_file() and not Run(job).finished]


def _summary(run: Run) -> RunSummary:
    try:
        about = run.about()
        result = run.result() if run.finished else {}
        models = result.get("models", {})
        measured = models.get("unlearned", models.get("model", {})).get("metrics", {})
        return RunSummary(
            path=run.path,
            name=one_line(str(result.get("name", run.path.name))),
            task=str(result.get("task", about.get("task", ""))),
            status=Status.finished if run.finished else Status.unfinished,
            created=str(about.get("created", "")),
            loss=str(result.get("loss") or ""),
            metrics={
                name: value
                for name, estimate in measured.items()
                if isinstance(value := estimate.get("value"), int | float)
            },
        )
    except (UserError, OSError, AttributeError, KeyError, TypeError, RecursionError):  # damaged files
        return RunSummary(path=run.path, name=run.path.name, task="", status=Status.unreadable, created="")
