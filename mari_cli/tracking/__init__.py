"""A tracker: a service that shows a run to people. A run always writes metrics.jsonl, with or without one.

The client of W&B is imported only where ``wandb`` is the tracker.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mari_cli.config import TrackerConfig, WandbConfig


class Tracker:
    """The interface of a service that shows people a run while it is running. This one tracks nothing."""

    note = "tracker: none"
    """One line for the log: the chosen mode and its reason."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Send values of a step, whose names are of group and metric, as ``train/loss``."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Send the final values of the run."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send one table; a cell may be None."""

    def artifact(self, path: Path, *, name: str, kind: str) -> None:
        """Send a file or directory of the run, which must not change afterwards."""

    def finish(self, exit_code: int) -> None:
        """End the tracking; ``exit_code`` 0 means success. A second call does nothing."""


def check_tracker(config: TrackerConfig) -> None:
    """Raise UserError, before a model is loaded, for a tracker that cannot start."""
    if isinstance(config, WandbConfig):
        from mari_cli.tracking.wandb_tracker import require_server, resolve_mode

        if resolve_mode(config)[0] == "online":
            require_server()


def open_tracker(config: TrackerConfig, *, run_dir: Path, run_config: dict[str, Any], name: str) -> Tracker:
    """Begin to track a run, or continue with the tracked run that is noted in ``run_dir``."""
    if isinstance(config, WandbConfig):
        from mari_cli.tracking.wandb_tracker import WandbTracker

        return WandbTracker(config, run_dir=run_dir, run_config=run_config, name=name)
    return Tracker()
