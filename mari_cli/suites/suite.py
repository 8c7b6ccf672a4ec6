"""A suite: data, what a model is asked about it, and what its answers amount to.

A suite is one module here, with a function ``load(config) -> Suite``, its schema in config/suites.py, whose
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
"""One item under one model: `set`, `item` (its number), `key` (a hash of its words), and numbers by metric.
Never a word of it."""


@dataclass(frozen=True)
class Summary:
    metrics: dict[str, Estimate]
    """By full name, as in `tofu/forget_quality`."""
    notes: list[str] = field(default_factory=list)
    """What is left out, and what it would take: a sentence each."""


class Suite(Protocol):
    name: str
    """The group of its metrics' names."""

    def describe(self) -> Mapping[str, Any]:
        """What was asked, for data.json: per set how many items and a hash of them. Without a word of it."""
        ...

    def examine(self, examiner: "Examiner") -> list[Row]:
        """Ask one model."""
        ...

    def summarise(self, rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
        """The metrics of one model. ``gold``: what the model said that never saw the forget data, if there is
        one; a metric that needs it and has none is left out, never defaulted."""
        ...


def suite_of(config: SuiteConfig) -> Suite | None:
    """Read its data; None for the corpora's own questions. Every refusal that needs no model happens here."""
    if config.kind == "corpora":
        return None
    suite: Suite = import_module(f"mari_cli.suites.{config.kind}").load(config)
    return suite
