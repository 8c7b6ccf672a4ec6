"""One run: prepared from what a command says or from the directory of an unfinished run, and carried out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mari_cli.begun import Inputs, require_same, versions
from mari_cli.config import RunConfig
from mari_cli.errors import UserError
from mari_cli.launch.compose import check_task, compose_apart
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.parse import parse
from mari_cli.launch.saved_config import load_run_config
from mari_cli.options import PreparedRun, RunOptions, Task
from mari_cli.storage.run import Run


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while ``task`` wrote to ``out``."""

    def __init__(self, task: str, out: str) -> None:
        super().__init__(task, out)
        self.task = task
        self.out = Path(out)


def prepare(experiment: Experiment, *, processes: int = 1) -> PreparedRun:
    """Compose and check a new run of ``experiment``'s task."""
    composed, of_hydra = compose_apart(experiment)
    config = parse(composed, experiment)
    check_task(config, experiment)
    if (launcher := of_hydra.runtime.choices["hydra/launcher"]) != "basic":
        raise UserError(
            f"`hydra/launcher={launcher}` has no effect on a single run",
            "`mari sweep` launches a single run too; `hydra/launcher=basic` runs it here",
        )
    return PreparedRun(config, RunOptions(experiment.command, processes=processes))


def resume(task: str, directory: Path, *, processes: int = 1) -> PreparedRun:
    """Go on with a run of ``task`` that was cut off, with the configuration that it wrote. What its files
    alone tell is checked here, before a task is loaded."""
    run = Run.unfinished(directory)
    config = replace(load_run_config(directory), out=str(directory))
    experiment = Experiment(task, ["--resume", str(directory)])
    check_task(config, experiment, f"`mari {config.task} --resume {directory}`")
    require_resumable(run, config)
    return PreparedRun(config, RunOptions(experiment.command, resume=True, processes=processes))


def require_resumable(run: Run, cfg: RunConfig) -> None:
    require_same(run, Inputs(values=versions(cfg)))
    with run.held():  # refused now where it is running, and not when the model is loaded
        pass


@contextmanager
def interruptible(task: str, out: str) -> Iterator[None]:
    """Let Ctrl-C say which ``task`` it has cut off, and in which directory."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(task, out) from error


def run(task: Task, prepared: PreparedRun) -> Any:
    """Carry out ``prepared`` in this process. What ``task`` raises comes out as it is."""
    with interruptible(prepared.config.task, prepared.config.out):
        return task(prepared.config, prepared.options)
