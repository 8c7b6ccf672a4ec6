"""What a run may tell a tracker. metrics.jsonl is the run's own and always written; this comes on top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Somewhere that shows a run to people while it goes on."""

    @property
    def note(self) -> str:
        """What was chosen and why, as one line for the log."""
        ...

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Values at a step, under names of group and metric, as in ``train/loss``."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """What the run is about to be remembered by."""
        ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """One table; a cell may be None."""
        ...

    def artifact(self, path: Path, *, name: str, kind: str) -> None:
        """A file or directory of the run, which does not change any more."""
        ...

    def finish(self, exit_code: int) -> None:
        """End it: 0 for a run that went well. A second call does nothing."""
        ...


class NoTracker:
    """Tracks nothing."""

    note = "tracker: none"

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        pass

    def summary(self, values: Mapping[str, Any]) -> None:
        pass

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        pass

    def artifact(self, path: Path, *, name: str, kind: str) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass
