"""Reinforced: q is the model before step 1, minus what rises when it is tuned on the forget data again.

    z_q = z_before - w · max(0, z_reinforced - z_before),    z logits, q = softmax(z_q)

R. Eldan, M. Russinovich 2023, "Who's Harry Potter? Approximate Unlearning in LLMs",
https://arxiv.org/abs/2310.02238: w is their α. They fine-tune on the most probable token of q, and also swap
names; MUSE answers with q itself. Here a loss distils q.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.models.context import Targets
from mari_cli.supports.asked import Asked
from mari_cli.tasks.sources.asking import Asking
from mari_cli.tasks.sources.correction import apply_correction
from mari_cli.tasks.sources.prepared import Prepared, Preparing, asked_of, epochs_of_share, model_at
from mari_cli.tasks.sources.source import SourceCost


def weakened(z_before: Tensor, z_reinforced: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised. The logits must not be normalised, because a shift changes what rises."""
    return z_before - weight * (z_reinforced - z_before).clamp_min(0)


def prepare(here: Preparing, known: Prepared) -> Prepared:
    return known if known.config.model is None else replace(known, given={"model": model_at("model", here)})


def make(asking: Asking) -> tuple[Targets, list[str]]:
    given = asking.prepared.given.get("model")
    if given is None:
        given = asking.tuned("reinforced", asking.target, asking.forget, epochs_of_share(asking.config))
    reinforced = asking.of(asking.load(given), "forget")
    return apply_correction(asking, asking.load(asking.target), [reinforced], weakened, said=Asked.logits)


def cost(config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]) -> SourceCost:
    trained = 0 if asked_of(config).model is not None else epochs_of_share(config) * tokens["forget"]
    return SourceCost(tokens["forget"] + tokens["holdout"], training_tokens=trained, states=2)
