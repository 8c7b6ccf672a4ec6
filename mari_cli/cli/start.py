"""How a command starts its task: the run is composed and checked before torch is loaded."""

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
    """The task called ``name`` and the run that it is to carry out, for as long as that takes.

    ``resume``: the run to go on with, which takes nothing else. Raises UserError where the configuration is
    refused; Ctrl-C inside says how the run goes on.
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
        yield _load(name, run), run


def _with_others(prepare: Any) -> AbstractContextManager[PreparedRun]:
    """What ``prepare`` returns; under torchrun the first process prepares it for all."""
    if started_here() == 1:
        return nullcontext(prepare())
    from mari_cli.tasks.together import take_part

    return take_part(prepare)


def _load(name: str, run: PreparedRun) -> Task:
    require_model(run.config)
    if run.options.processes == 1:
        return load_task(name)
    from mari_cli.tasks.together import run_in_processes

    return partial(run_in_processes, name)


def require_model(config: Any) -> None:
    """Refuse a model that is nowhere, before torch is loaded: a typo is told at once."""
    from mari_cli import hub

    hub.require_model(config.model.path)


@dataclass(frozen=True)
class LoadedLater:
    """The task of a sweep, which each of its processes loads when it is called. Launchers pickle it."""

    name: str

    def __call__(self, config: Any, options: RunOptions, /) -> Any:
        require_model(config)
        return load_task(self.name)(config, options)
