"""Siblings: q is the model before step 1, corrected by the difference of two small models: one trained on the
retain data, one on retain and forget data together.

    q ∝ p_target · (p_retain / p_both)^w

This is the teacher of divergence decoding (A. Liu et al. 2021, "DExperts", https://arxiv.org/abs/2105.03023,
applied to unlearning). At w = 1 it leaks; at larger w it also loses what other documents say. The first small
model alone, as `base`, was better where both were measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.models.context import Targets
from mari_cli.tasks.sources.asking import Asking
from mari_cli.tasks.sources.correction import apply_correction
from mari_cli.tasks.sources.prepared import Prepared, Preparing, model_at
from mari_cli.tasks.sources.source import SourceCost

MODELS = ("retain_model", "both_model")


def corrected(log_target: Tensor, log_retain: Tensor, log_both: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised."""
    return log_target + weight * (log_retain - log_both)


def prepare(here: Preparing, known: Prepared) -> Prepared:
    return replace(known, given={name: model_at(name, here) for name in MODELS})


def make(asking: Asking) -> tuple[Targets, list[str]]:
    others = [asking.of(asking.load(asking.prepared.given[name]), "forget") for name in MODELS]
    return apply_correction(asking, asking.load(asking.target), others, corrected)


def cost(config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]) -> SourceCost:
    return SourceCost(2 * tokens["forget"] + tokens["holdout"], states=3)
