"""What was measured of one model on its corpora, or computed from a log."""

from dataclasses import dataclass, field
from typing import Any

from mari_cli.metrics.estimate import Estimate


@dataclass(frozen=True)
class Measured:
    metrics: dict[str, Estimate]
    items: list[dict[str, Any]]
    """Per-item values, without any text."""
    answers: list[str]
    """What the model said to the first forget questions, as many as `metrics.examples`."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of the numbers, a sentence each."""
