"""Trackers by name: ``none``, or ``wandb``, whose client is only imported where it is asked for."""

from pathlib import Path
from typing import Any

from mari_cli.config import TrackerConfig, WandbConfig
from mari_cli.tracking.base import NoTracker, Tracker

__all__ = ["NoTracker", "Tracker", "check_tracker", "open_tracker"]


def check_tracker(config: TrackerConfig) -> None:
    """Refuse, before a model is loaded, a tracker that could not start."""
    if isinstance(config, WandbConfig):
        from mari_cli.tracking.wandb_tracker import require_server, resolve_mode

        if resolve_mode(config)[0] == "online":
            require_server()


def open_tracker(config: TrackerConfig, *, run_dir: Path, run_config: dict[str, Any], name: str) -> Tracker:
    """Begin to track a run, or go on with one: ``run_dir`` remembers which it was."""
    if isinstance(config, WandbConfig):
        from mari_cli.tracking.wandb_tracker import WandbTracker

        return WandbTracker(config, run_dir=run_dir, run_config=run_config, name=name)
    return NoTracker()
