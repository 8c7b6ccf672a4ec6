"""Trackers by name: ``none``, or ``wandb``, whose client is imported only for this tracker."""

from pathlib import Path
from typing import Any

from mari_cli.config import TrackerConfig, WandbConfig
from mari_cli.tracking.base import Tracker

__all__ = ["Tracker", "check_tracker", "open_tracker"]


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
