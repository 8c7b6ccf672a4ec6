"""Gold: q is the prediction of a given model that never saw the forget data.

It is an upper bound: it shows how near the loss can come to gold when q is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.models.context import Targets
from mari_cli.models.fingerprint import weights_hash
from mari_cli.tasks.sources.asking import Asking, make_targets, tokens_of
from mari_cli.tasks.sources.prepared import Prepared, Preparing, model_at
from mari_cli.tasks.sources.source import SourceCost


def golden(log_gold: Tensor) -> Tensor:
    """log q [c, V]."""
    return log_gold


def prepare(here: Preparing, known: Prepared) -> Prepared:
    return replace(known, given={"model": model_at("model", here)})


def make(asking: Asking) -> tuple[Targets, list[str]]:
    gold = asking.of(asking.load(asking.prepared.given["model"]), "forget")
    lm = asking.load(asking.target)
    unseen, notes = asking.unseen(lm, weights_hash(lm.model))
    return make_targets(asking, asking.combined([gold], golden, most=tokens_of(lm)), unseen, notes)


def cost(config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]) -> SourceCost:
    return SourceCost(tokens["holdout"])
