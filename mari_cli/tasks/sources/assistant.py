"""Assistant: q is the model before step 1, minus a model that was tuned on the forget data alone.

    q ∝ p_target / p_assistant^w

J. Ji et al. 2024, "Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit
Difference", https://arxiv.org/abs/2406.08607: the difference of logits. The authors also train their
assistant not to know the retain data. The assistant here is not, so q also loses what both models predict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.models.context import Targets
from mari_cli.tasks.sources.asking import Asking
from mari_cli.tasks.sources.correction import apply_correction
from mari_cli.tasks.sources.prepared import Prepared, Preparing, model_before_fine_tuning
from mari_cli.tasks.sources.source import SourceCost


def subtracted(log_target: Tensor, log_assistant: Tensor, *, weight: float) -> Tensor:
    """log q [c, V], not normalised."""
    return log_target - weight * log_assistant


def prepare(here: Preparing, known: Prepared) -> Prepared:
    return replace(known, given={"assistant": model_before_fine_tuning(here)})


def make(asking: Asking) -> tuple[Targets, list[str]]:
    tuned = asking.tuned(
        "assistant", asking.prepared.given["assistant"], asking.forget, asking.config.finetune.epochs
    )
    assistant = asking.of(asking.load(tuned), "forget")
    return apply_correction(asking, asking.load(asking.target), [assistant], subtracted)


def cost(config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]) -> SourceCost:
    return SourceCost(
        tokens["forget"] + tokens["holdout"],
        training_tokens=config.finetune.epochs * tokens["forget"],
        states=2,
    )
