"""What a command hands to a task: the configuration of a run, and how the run is carried out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # `mari --help` does without OmegaConf
    from mari_cli.config import RunConfig


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. Nothing here changes a number of its result."""

    command: Sequence[str]
    """What to type to get this run again."""
    resume: bool = False
    """Whether the unfinished run in `out` goes on, or a new one begins."""
    processes: int = 1
    """Processes to start on this machine."""


class Task(Protocol):
    """A function of ``mari_cli.tasks``: it carries out a run and returns the result."""

    def __call__(self, config: Any, options: RunOptions, /) -> Any: ...


@dataclass(frozen=True)
class PreparedRun:
    """A run that is composed and checked, and has not begun."""

    config: "RunConfig"
    options: RunOptions
