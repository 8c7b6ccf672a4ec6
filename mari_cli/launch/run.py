"""One run: prepared from a command or from the directory of an unfinished run, and carried out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mari_cli.begun import Inputs, require_same, versions
from mari_cli.config import RunConfig
from mari_cli.errors import UserError, shell_path
from mari_cli.launch.compose import check_task, compose_apart
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.parse import parse
from mari_cli.launch.saved_config import load_run_config
from mari_cli.options import PreparedRun, RunOptions, Task
from mari_cli.storage.run import Run


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C while ``task`` wrote to ``out``."""

    def __init__(self, task: str, out: str) -> None:
        super().__init__(task, out)
        self.task = task
        self.out = Path(out)


def prepare(experiment: Experiment, *, processes: int = 1) -> PreparedRun:
    """Compose and check a new run of ``experiment``'s task. Raises UserError for an impossible config."""
    composed, of_hydra = compose_apart(experiment)
    config = parse(composed, experiment)
    check_task(config, experiment)
    if (launcher := of_hydra.runtime.choices["hydra/launcher"]) != "basic":
        raise UserError(
            f"`hydra/launcher={launcher}` has no effect on a single run",
            "`mari sweep` launches a single run too; `hydra/launcher=basic` runs it here",
        )
    if varied := _varied(of_hydra, experiment):
        told = f"`{experiment.file}` describes a sweep over {varied}, and this is one run of it"
        print(f"note: {told}; `mari sweep -c {shell_path(experiment.file)}` does all", file=sys.stderr)
    return PreparedRun(config, RunOptions(experiment.command, processes=processes))


def _varied(of_hydra: DictConfig, experiment: Experiment) -> str:
    """The keys that the file sweeps over, and that no override sets; empty where there are none."""
    given = {override.partition("=")[0] for override in experiment.overrides}
    swept = [key for key in of_hydra.sweeper.params or {} if not str(key).startswith("sweep.")]
    return ", ".join(f"`{key}`" for key in swept if key not in given)


def resume(task: str, directory: Path, *, processes: int = 1) -> PreparedRun:
    """Prepare an unfinished run of ``task`` with the configuration in ``directory``. Raises UserError, before
    the task is loaded, where the files show that the run cannot be resumed."""
    run = Run.unfinished(directory)
    config = replace(load_run_config(directory, checked=True), out=str(directory))
    experiment = Experiment(task, ["--resume", str(directory)])
    check_task(config, experiment, f"`mari {config.task} --resume {shell_path(directory)}`")
    require_resumable(run, config)
    return PreparedRun(config, RunOptions(experiment.command, resume=True, processes=processes))


def require_resumable(run: Run, cfg: RunConfig) -> None:
    require_same(run, Inputs(values=versions(cfg)))
    with run.held():  # raises now, before a model is loaded, where the run is running
        pass


@contextmanager
def interruptible(task: str, out: str) -> Iterator[None]:
    """Raise Interrupted, with ``task`` and ``out``, in place of KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(task, out) from error


def run(task: Task, prepared: PreparedRun) -> Any:
    """Carry out ``prepared`` in this process. Exceptions of ``task`` pass unchanged."""
    with interruptible(prepared.config.task, prepared.config.out):
        return task(prepared.config, prepared.options)
