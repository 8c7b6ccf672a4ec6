"""How a command starts its task. The run is composed and checked before torch is loaded."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mari_cli.errors import UserError
from mari_cli.options import PreparedRun, RunOptions, Task
from mari_cli.tasks.worker import load_task
from mari_cli.tasks.worker import processes as started_here


@contextmanager
def start(
    name: str,
    overrides: Sequence[str] | None,
    config: Path | None,
    resume: Path | None,
    *,
    model: str | None = None,
    processes: int = 1,
) -> Iterator[tuple[Task, PreparedRun]]:
    """Yield the task called ``name`` and the checked run that it is to carry out.

    ``resume``: the run to go on with; no override may come with it. Raises UserError where the configuration
    is refused. Ctrl-C inside the block prints how the run can be resumed.
    """
    from mari_cli import launch

    if resume is not None and (overrides or config or model):
        raise UserError(
            "a run goes on as it began: `--resume` takes no KEY=VALUE and no `-c`",
            "start a new run to change something",
        )
    if started_here() > 1 and processes > 1:
        raise UserError("`--nproc` under torchrun: the processes are there already", "leave out `--nproc`")

    def prepare() -> PreparedRun:
        if resume is not None:
            return launch.resume(name, resume, processes=processes)
        experiment = launch.Experiment(name, overrides or [], config, model)
        return launch.prepare(experiment, processes=processes)

    with _with_others(prepare) as run, launch.interruptible(run.config.task, run.config.out):
        if started_here() == 1:
            check_runs([run.config], run.options)
        if run.options.processes == 1:
            yield load_task(name), run
            return
        from mari_cli.tasks.together import run_in_processes

        yield partial(run_in_processes, name), run


def _with_others(prepare: Any) -> AbstractContextManager[PreparedRun]:
    """The run that ``prepare`` returns. Under torchrun rank 0 prepares the run and sends it to all others."""
    if started_here() == 1:
        return nullcontext(prepare())
    from mari_cli.tasks.together import take_part

    return take_part(prepare)


def check_runs(configs: Sequence[Any], options: RunOptions) -> None:
    """Raise UserError where a run names something that cannot be used. No run has started."""
    from mari_cli.tasks.early_checks import check_early

    check_early(configs, options)


@dataclass(frozen=True)
class LoadedLater:
    """The task of a sweep. Each process loads the task at its first call; launchers pickle this object."""

    name: str

    def __call__(self, config: Any, options: RunOptions, /) -> Any:
        check_runs([config], options)
        return load_task(self.name)(config, options)
