"""A suite: data, the questions that a model is asked about it, and the metrics of the answers.

A suite is one module here with a function ``load(config) -> Suite``, its schema in config/suites.py, whose
``kind`` is the module's name, and one file in conf/suite/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from mari_cli.config import SuiteConfig
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import How

if TYPE_CHECKING:  # the numbers of a log need no torch
    from mari_cli.suites.examiner import Examiner

Row = dict[str, Any]
"""One item under one model: `set`, `item` (its number), `key` (a hash of its text), and numbers by metric. A
row holds no other text."""


@dataclass(frozen=True)
class Summary:
    metrics: dict[str, Estimate]
    """Estimates by full name, as `tofu/forget_quality`."""
    notes: list[str] = field(default_factory=list)
    """A sentence for each metric that is left out, with what it needs."""


class Suite(Protocol):
    name: str
    """The group in the names of its metrics."""

    def describe(self) -> Mapping[str, Any]:
        """The number and the hash of each set's items, for data.json, without any of their text."""
        ...

    def examine(self, examiner: "Examiner") -> list[Row]:
        """Ask one model; returns a row for each item."""
        ...

    def summarise(self, rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
        """The metrics of one model. ``gold``: the rows of the model that never saw the forget data, if there
        is one. A metric that needs a missing gold model is left out; it gets no default."""
        ...


def suite_of(config: SuiteConfig) -> Suite | None:
    """The suite of ``config`` with its data; None for the corpora's own questions. Raises UserError."""
    if config.kind == "corpora":
        return None
    suite: Suite = import_module(f"mari_cli.suites.{config.kind}").load(config)
    return suite
