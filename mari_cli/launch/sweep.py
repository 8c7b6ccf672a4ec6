"""Every combination of `KEY=A,B,…`, run one by one through a launcher."""

import contextlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mari_cli import config
from mari_cli.config import RunConfig
from mari_cli.errors import UserError
from mari_cli.launch import saved_sweep
from mari_cli.launch.combinations import Composed, directory_name, is_of_launcher
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.lost_jobs import Failed, lost_jobs_fail, of_broken_pool
from mari_cli.launch.run import interruptible, require_resumable, run
from mari_cli.launch.saved_config import load_run_config
from mari_cli.launch.session import session
from mari_cli.launch.typed import quote
from mari_cli.options import PreparedRun, RunOptions, Task
from mari_cli.storage.layout import RUN
from mari_cli.storage.run import Run, now


@dataclass(frozen=True)
class SweepJob:
    """One combination of a sweep, composed and checked."""

    number: int
    overrides: tuple[str, ...]
    varied: dict[str, str]
    """What sets this job apart: the overrides that differ from job to job."""
    config: RunConfig
    command: list[str]

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.varied.items()) or self.config.out


@dataclass(frozen=True)
class PlannedSweep:
    """Every job of a sweep, before the first has started."""

    experiment: Experiment
    task: str
    directory: Path
    jobs: tuple[SweepJob, ...]
    resumed: bool = False
    launcher: tuple[str, ...] | None = None
    """Overrides that choose it, where a method has settings of its own: such jobs Hydra does not compose."""

    @property
    def configs(self) -> list[RunConfig]:
        return [job.config for job in self.jobs]


@dataclass(frozen=True)
class _GuardedTask:
    """What the launcher calls for each job: a failure becomes a value, and the other jobs go on."""

    task: Task
    jobs: tuple[SweepJob, ...]
    """Those that are launched."""
    total: int
    cwd: Path
    """Where the sweep was started. A process that joblib keeps from an earlier sweep may stand elsewhere."""

    def __call__(self, cfg: DictConfig) -> Any:
        job = self.jobs[HydraConfig.get().job.num]
        assert tuple(HydraConfig.get().overrides.task) == job.overrides, (
            "the launcher counts jobs differently"
        )
        print(f"job {job.number + 1} of {self.total}: {job.label}", file=sys.stderr, flush=True)
        try:
            with contextlib.chdir(self.cwd):
                options = RunOptions(job.command, resume=(job.out / RUN).is_file())
                return run(self.task, PreparedRun(job.config, options))
        except UserError as error:
            return Failed(f"{error} ({error.hint})" if error.hint else str(error))
        except Exception as error:  # whatever it is, the sweep goes on and reports it
            traceback.print_exc()
            return Failed(f"{type(error).__name__}: {error}")


def plan_sweep(composed: Composed) -> PlannedSweep:
    """Every combination checked, so that a typo in the last one does not wait for the first to end.

    Without `-c` the jobs are of the experiment's task; a file says itself what it describes.
    """
    experiment, directory = composed.experiment, composed.directory
    saved_sweep.refuse_existing(directory)
    jobs = []
    for number, (overrides, varied, cfg) in enumerate(
        zip(composed.combinations, composed.varied, composed.configs, strict=True)
    ):
        name = "_".join(
            [str(number), *(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())]
        )
        out = directory / directory_name(name)
        kept = [override for override in overrides if not override.startswith("out=")]
        command = Experiment(composed.task, kept, experiment.file).command
        jobs.append(SweepJob(number, overrides, varied, replace(cfg, out=str(out)), command))
    launcher = tuple(composed.launcher) if composed.own else None
    return PlannedSweep(composed.given, composed.task, directory, tuple(jobs), launcher=launcher)


def take_up_sweep(directory: Path, about: Mapping[str, Any], launcher: Sequence[str] = ()) -> PlannedSweep:
    """The sweep in a directory, to go on with: finished jobs stay, cut ones go on, the rest begin.

    ``about``: what `saved_sweep.read` says of it. ``launcher``: overrides that choose another launcher than
    the sweep had. That no job, and nothing that a job names, has changed is checked before the first goes on.
    """
    jobs = []
    for number, job in enumerate(about["jobs"]):
        cfg = load_run_config(saved_sweep.job_directory(directory, number), checked=True)
        cfg = replace(cfg, out=str(directory / job["name"]))
        jobs.append(SweepJob(number, (), job["varied"], cfg, job["command"]))
    saved_sweep.require_same(directory, about, [job.config for job in jobs])
    with saved_sweep.hold_sweep(directory):  # refused now where it is running
        for job in jobs:
            if (job.out / RUN).is_file() and not Run(job.out).finished:
                require_resumable(Run.unfinished(job.out), job.config)
    experiment = Experiment(about["task"], list(launcher or about["launcher"]))
    return PlannedSweep(experiment, about["task"], directory, tuple(jobs), resumed=True)


def sweep(task: Task, planned: PlannedSweep) -> list[Any]:
    """Run ``task`` over every job that is not finished, through the configured launcher: results or Failed,
    in the jobs' order."""
    if not planned.resumed:
        _begin(planned)
    with interruptible("sweep", str(planned.directory)), saved_sweep.hold_sweep(planned.directory):
        results = {job.number: Run(job.out).result() for job in planned.jobs if Run(job.out).finished}
        todo = [job for job in planned.jobs if job.number not in results]
        results |= zip([job.number for job in todo], _launch(task, planned, todo), strict=True)
    return [results[job.number] for job in planned.jobs]


def _begin(planned: PlannedSweep) -> None:
    experiment, jobs = planned.experiment, planned.jobs
    saved_sweep.begin(
        planned.directory,
        task=planned.task,
        command=["mari", "sweep", "--task", *experiment.command[1:]],
        launcher=[key for key in experiment.overrides if is_of_launcher(key)],
        jobs=[{"name": job.out.name, "varied": job.varied, "command": job.command} for job in jobs],
        texts=[config.to_yaml(job.config) for job in jobs],
        configs=planned.configs,
    )


def _launch(task: Task, planned: PlannedSweep, todo: Sequence[SweepJob]) -> list[Any]:
    if not todo:
        return []
    if planned.resumed:
        place = planned.directory / "resumed" / now().replace(":", "-")
        return launch_composed(task, planned.experiment, place, todo, total=len(planned.jobs))
    if planned.launcher is not None:
        experiment = Experiment(planned.task, list(planned.launcher))
        return launch_composed(task, experiment, planned.directory, todo, total=len(planned.jobs))
    return _multirun(task, planned.experiment, planned.directory, todo, len(planned.jobs))


def launch_composed(
    task: Task, experiment: Experiment, directory: Path, todo: Sequence[SweepJob], *, total: int
) -> list[Any]:
    """Run jobs whose configurations are at hand: results or Failed, in their order.

    ``experiment`` chooses the launcher, ``directory`` is where the launcher writes. What Hydra composes for
    each job is not what the job does: it only tells the launcher how many there are.
    """
    jobs = [replace(job, overrides=(f"seed={job.number}",)) for job in todo]
    numbers = ",".join(str(job.number) for job in jobs)
    counting = replace(experiment, overrides=[f"seed={numbers}", *experiment.overrides])
    return _multirun(task, counting, directory, jobs, total)


def _multirun(
    task: Task, experiment: Experiment, directory: Path, todo: Sequence[SweepJob], total: int
) -> list[Any]:
    with session(experiment) as controller, lost_jobs_fail():
        try:
            batches = controller.multirun(
                config_name=experiment.primary,
                task_function=_GuardedTask(task, tuple(todo), total, Path.cwd()),
                overrides=[*experiment.arguments, f"hydra.sweep.dir={quote(str(directory))}"],
            )
        except BrokenProcessPool as error:
            lost = of_broken_pool(error)
            return [Run(job.out).result() if Run(job.out).finished else lost for job in todo]
        return [job.return_value for batch in batches for job in batch]
