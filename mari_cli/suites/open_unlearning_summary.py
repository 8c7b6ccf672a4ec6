"""OpenUnlearning's summary of a TOFU evaluation (`TOFU_SUMMARY.json`): one number for each metric, no items.

A summary has every input of the community's overall score, so published rows can be compared on one scale. It
has neither intervals nor the number of items.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.suites.tofu_metrics import OPEN_UNLEARNING
from mari_cli.suites.tofu_overall import ATTACKED, scores

INGREDIENTS = {
    "extraction_strength": "extraction_strength",
    "exact_memorization": "exact_memorization",
    "paraphrase_probability": "forget_Q_A_PARA_Prob",
    "truth_ratio": "forget_truth_ratio",
    "model_utility": "model_utility",
    "fluency": "forget_Q_A_gibberish",
    **{name: f"mia_{name.removesuffix('_auc')}" for name in ATTACKED},
}
"""Inputs of the overall score to OpenUnlearning's names."""

OpenUnlearningSummary = dict[str, float | None]
"""Values by OpenUnlearning's names."""


def read_summary(path: Path) -> OpenUnlearningSummary | None:
    """The summary; None if the file is none, and then `tofu_logs` reads it or explains what is wrong."""
    file = path / "TOFU_SUMMARY.json" if path.is_dir() and not (path / "TOFU_EVAL.json").exists() else path
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not content:
        return None
    if not all(value is None or isinstance(value, int | float) for value in content.values()):
        return None
    return content


def summary_scores(
    summary: OpenUnlearningSummary,
    where: str,
    gold: OpenUnlearningSummary | None,
    target: OpenUnlearningSummary | None,
) -> dict[str, Estimate]:
    """Every score that the summaries allow, by full name; n is 0, because it is unknown.

    Raises UserError, which names ``where``, for a number outside its metric's range.
    """
    own, golds, targets = (
        of and {ours: of.get(theirs) for ours, theirs in INGREDIENTS.items()}
        for of in (summary, gold, target)
    )
    assert own is not None
    try:
        found = scores(own, golds, targets)
    except ValueError as error:
        raise UserError(
            f"`{where}`: {error}", "give the summaries as the evaluations wrote them: model, gold, target"
        ) from error
    return {
        f"tofu/{name}{OPEN_UNLEARNING}": Estimate(value=float(value), n=0) for name, value in found.items()
    }


def lacking(summaries: Mapping[str, OpenUnlearningSummary]) -> list[str]:
    """A note for each summary, by role, that lacks an input of the overall score."""
    return [
        f"{role}: the summary has no `{'`, `'.join(missing)}`"
        for role, summary in summaries.items()
        if (missing := [theirs for theirs in INGREDIENTS.values() if summary.get(theirs) is None])
    ]
