"""Jobs that end without a value: killed for memory, at a time limit, or with their machine.

submitit and joblib raise for such a job, which ends the sweep and leaves the other jobs to themselves. And
submitit asks SLURM's accounting whether a job lives, and waits for ever where a cluster keeps no accounting.
Here each such job has a value, as a job that raises has.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from mari_cli.errors import UserError, first_line

ASK_EVERY = 10.0
"""Seconds between two looks at SLURM's queue."""
GRACE = 30.0
"""Seconds that the result of a job that left SLURM's queue may take to arrive on a shared disk."""


@dataclass(frozen=True)
class Failed:
    """A job of a sweep that ended in an error."""

    reason: str


def of_broken_pool(error: BrokenProcessPool) -> Failed:
    """Every unfinished job of joblib: its pool ends with the first process that dies."""
    reason = "a process of the sweep was killed, often for want of memory, and took the others along"
    return Failed(f"{type(error).__name__}: {reason} (fewer `--jobs` take less memory)")


@contextmanager
def lost_jobs_fail() -> Iterator[None]:
    """Jobs that submitit launches meanwhile end in a value, however they end. An interrupt cancels them."""
    try:
        plugin: Any = import_module("hydra_plugins.hydra_submitit_launcher.submitit_launcher")
    except ImportError:  # an extra
        yield
        return
    launch = plugin.BaseSubmititLauncher.launch

    def launch_watched(launcher: Any, *jobs: Any, **named: Any) -> Any:
        import submitit  # changes the process's logging, so only where it launches

        plain = submitit.AutoExecutor
        setattr(submitit, "AutoExecutor", _with_watched_jobs(plain))  # noqa: B010  (a type is assigned to)
        try:
            return launch(launcher, *jobs, **named)
        finally:
            setattr(submitit, "AutoExecutor", plain)  # noqa: B010

    plugin.BaseSubmititLauncher.launch = launch_watched
    try:
        yield
    finally:
        plugin.BaseSubmititLauncher.launch = launch


def _with_watched_jobs(executor: Any) -> type:
    """The class ``executor`` of submitit, with jobs that are watched, and with errors in one line."""
    from submitit.core.utils import FailedJobError

    class Executor(executor):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            try:
                super().__init__(*arguments, **named)
            except RuntimeError as error:
                raise UserError(
                    f"submitit cannot launch here: {error}",
                    "start the sweep on a node of the cluster; `--launcher joblib` needs none",
                ) from error

        def map_array(self, *arguments: Any) -> list[Any]:
            try:
                jobs, queue = super().map_array(*arguments), _Queue()
            except FailedJobError as error:
                raise UserError(
                    f"SLURM takes no job of this sweep: {first_line(error)}",
                    "`hydra.launcher.KEY=VALUE` says what is asked for, as `hydra.launcher.partition=gpu`",
                ) from error
            return [_Watched(job, jobs, queue) for job in jobs]

    return Executor


class _Queue:
    """The jobs of this user that SLURM still has, by their numbers; None where SLURM does not answer."""

    def __init__(self) -> None:
        self.numbers: set[str] | None = None
        self.asked = -ASK_EVERY

    def has(self, number: str) -> bool:
        """Whether SLURM still has a job. True where SLURM does not answer."""
        if time.monotonic() - self.asked > ASK_EVERY:
            command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            answer = subprocess.run(command, capture_output=True, text=True)
            self.numbers = None if answer.returncode else set(answer.stdout.split())
            self.asked = time.monotonic()
        return self.numbers is None or number in self.numbers


@dataclass
class _Watched:
    """A job of submitit as Hydra's launcher uses one. ``together``: every job that was launched with it."""

    job: Any
    together: Sequence[Any]
    queue: _Queue

    def results(self) -> list[Any]:
        """Its one result, when there is one: a JobReturn."""
        try:
            self._wait()
            if self.job.paths.result_pickle.exists():
                return list(self.job.results())
            reason = "the job's process was killed: for want of memory, at a time limit, or with its machine"
        except KeyboardInterrupt:
            for job in self.together:
                job.cancel(check=False)
            raise
        except Exception as error:  # before or after the task, which catches its own
            reason = f"{type(error).__name__}: {first_line(error)}"
        failed = Failed(f"{reason} (its log: {self.job.paths.stderr})")
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=failed)]

    def _wait(self) -> None:
        result, gone = self.job.paths.result_pickle, None
        while not result.exists():
            if gone is None and not self._lives():
                gone = time.monotonic()
            if gone is not None and time.monotonic() - gone >= (GRACE if self._is_of_slurm else 0):
                return
            time.sleep(1)

    def _lives(self) -> bool:
        return self.queue.has(self.job.job_id) if self._is_of_slurm else not self.job.done()

    @property
    def _is_of_slurm(self) -> bool:
        return type(self.job).__name__ == "SlurmJob"
