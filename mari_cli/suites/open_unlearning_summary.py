"""OpenUnlearning's summary of a TOFU evaluation (`TOFU_SUMMARY.json`): one number for each metric, no items.

It holds all that the community's overall score is made of, so published rows can be placed on one scale.
Means alone have no interval, and how many items they are of is not said.
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
"""What the overall score is made of, to OpenUnlearning's names."""

OpenUnlearningSummary = dict[str, float | None]
"""By its own names."""


def read_summary(path: Path) -> OpenUnlearningSummary | None:
    """None where the file is no summary: `tofu_logs` says what else it may be, and what is wrong with it."""
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
    """Every score that the summaries suffice for, by full name; n is 0, as it is not known.

    A number that cannot be what it is called is refused, in the words of ``where`` it stands.
    """
    own, golds, targets = (of and _ingredients(of) for of in (summary, gold, target))
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
    """A note for each summary, by role, that lacks a part of the overall score."""
    return [
        f"{role}: the summary has no `{'`, `'.join(missing)}`"
        for role, summary in summaries.items()
        if (missing := [theirs for theirs in INGREDIENTS.values() if summary.get(theirs) is None])
    ]


def _ingredients(summary: OpenUnlearningSummary) -> dict[str, float | None]:
    return {ours: summary.get(theirs) for ours, theirs in INGREDIENTS.items()}
