"""What a source of support must say of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.models.context import Targets
from mari_cli.tasks.sources.asking import Asking
from mari_cli.tasks.sources.prepared import Prepared, Preparing


@dataclass(frozen=True)
class SourceCost:
    """What a source costs before step 1, besides one reading of the forget data."""

    forward_tokens: int
    """Tokens that a model reads."""
    training_tokens: int = 0
    """Tokens that a model is tuned on; that model is kept."""
    states: int = 1
    """Models whose states at the forget positions are kept; small models count as if they were as wide."""
    holdout_states: bool = False
    """Whether states at the holdout's positions are kept, too."""
    distributions: int = 1
    """Distributions that are kept for each forget position, q among them."""
    drawn_tokens: int = 0
    """Tokens of the tail that are kept of each distribution, with their weights."""


class Source(Protocol):
    """One way to what the retain data supports at the forget positions: a module here."""

    def prepare(self, here: Preparing, known: Prepared) -> Prepared:
        """Add what the source must have, from the texts alone. Raises UserError where it cannot be had."""
        ...

    def make(self, asking: Asking) -> tuple[Targets, list[str]]:
        """q at each forget position, and notes for the reader. One model at a time is loaded."""
        ...

    def cost(
        self, config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]
    ) -> SourceCost:
        """Of a run with these items and numbers of tokens, by role; 0 of a holdout that is not there."""
        ...
