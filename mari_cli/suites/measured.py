"""The results of one model on its corpora, measured or computed from a log."""

from dataclasses import dataclass, field
from typing import Any

from mari_cli.metrics.estimate import Estimate


@dataclass(frozen=True)
class Measured:
    metrics: dict[str, Estimate]
    items: list[dict[str, Any]]
    """Values by item, without any text."""
    answers: list[str]
    """Answers of the model to the first forget questions, as many as `metrics.examples`."""
    notes: list[str] = field(default_factory=list)
    """Sentences that a reader needs to interpret the numbers."""
