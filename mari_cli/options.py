"""The arguments of a task: the configuration of a run, and the options of its execution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # `mari --help` must not import OmegaConf
    from mari_cli.config import RunConfig


@dataclass(frozen=True)
class RunOptions:
    """Options of the execution of a run. None of them changes a number of the result."""

    command: Sequence[str]
    """The words of the command that repeats this run."""
    resume: bool = False
    """Whether to resume the unfinished run in `out`; False: begin a new one."""
    processes: int = 1
    """Number of processes to start on this machine."""


class Task(Protocol):
    """A function of ``mari_cli.tasks`` that carries out a run and returns the result."""

    def __call__(self, config: Any, options: RunOptions, /) -> Any: ...


@dataclass(frozen=True)
class PreparedRun:
    """A run that is composed and checked, but has not begun."""

    config: "RunConfig"
    options: RunOptions
