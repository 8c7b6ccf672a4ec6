"""The measurements of one model, as a task ends with them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mari_cli.metrics.estimate import Estimate
from mari_cli.suites.measured import Measured
from mari_cli.suites.suite import Row


@dataclass(frozen=True)
class Examined:
    """All measurements of one model."""

    measured: Measured
    asked: list[Row]
    """The answers to the suite's questions."""
    weights: str
    """Hash of its weights."""


def as_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}
