"""What is said of a model beside the others of its run: distance to gold, drift of unseen data, overall."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mari_cli.config import MetricsConfig
from mari_cli.metrics.distance import NOT_MEASURED, Entered, choose_metrics, distances_to_gold
from mari_cli.metrics.drift import drifts
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import item_values
from mari_cli.metrics.statistics import How
from mari_cli.suites.registry import METRICS, describe
from mari_cli.suites.tofu_overall import overall_estimates
from mari_cli.tasks.examined import Examined


@dataclass(frozen=True)
class Beside:
    models: dict[str, Examined]
    """As they came, with the metrics that take several models."""
    entered: Entered | None
    """What a distance to gold is of; None without target or gold, and where nothing enters."""
    notes: list[str]
    """What is left out, and why."""


def compare_models(models: Mapping[str, Examined], config: MetricsConfig, *, seed: int) -> Beside:
    """Of each model, from the items of all; nothing is asked of a model here."""
    how = How(config.bootstrap, config.confidence, seed)
    items = {
        role: [item_values({"model": role} | row) for row in [*found.measured.items, *found.asked]]
        for role, found in models.items()
    }
    target, gold = items.get("target"), items.get("gold")
    metrics: dict[str, dict[str, Estimate]] = {
        role: overall_estimates(of_role, gold, target, how) for role, of_role in items.items()
    }
    for role, found in drifts(items, how).items():
        metrics[role] |= found
    entered = None
    notes: list[str] = []
    if target and gold:
        entered = choose_metrics(target, gold, how, METRICS)
        notes = _left_out(entered)
        if entered.forget or entered.kept:
            for role, distances in distances_to_gold(items, entered, how, METRICS).items():
                metrics[role] |= distances
        else:
            entered = None
    elif gold:
        notes = ["distance to gold is left out: it needs the model before unlearning too (`before=DIR`)"]
    others = {of_model.weights: role for role, of_model in models.items() if role != "gold"}
    if gold and (alike := others.get(models["gold"].weights)):
        notes.append(f"gold has the weights of `{alike}`: is `gold` the right path?")
    notes += _no_overall(metrics, gold=bool(gold), target=bool(target), before=models.get("target"))
    whole = {
        role: replace(
            of_model, measured=replace(of_model.measured, metrics=of_model.measured.metrics | metrics[role])
        )
        for role, of_model in models.items()
    }
    return Beside(whole, entered, notes)


def _no_overall(
    metrics: Mapping[str, Mapping[str, Estimate]], *, gold: bool, target: bool, before: Examined | None
) -> list[str]:
    """Where TOFU was asked, why there is no overall score."""
    scores = {name for of_role in metrics.values() for name in of_role}
    if "tofu/memorization_score" not in scores or any(name.startswith("tofu/overall") for name in scores):
        return []
    relative = not target or any(name.startswith("tofu/utility_score") for name in scores)
    utility = before.measured.metrics.get("tofu/model_utility") if before else None
    needs = {
        "a gold model": not gold,
        "a holdout that gold was asked too": gold and "tofu/privacy_score" not in scores,
        "the model before unlearning (`before=DIR`)": not target,
        "generated answers": not relative and utility is None,
        "a target of some model utility (it is 0)": not relative and utility is not None,
    }
    return [
        "the overall score on TOFU is left out: it needs "
        + ", ".join(what for what, lacking in needs.items() if lacking)
    ]


def _left_out(entered: Entered) -> list[str]:
    """What was measured and does not enter a distance; what was not measured is missed elsewhere."""
    reasons: dict[str, list[str]] = {}
    for name, reason in entered.left_out.items():
        if reason != NOT_MEASURED:
            reasons.setdefault(reason, []).append(describe(name).label)
    return [
        f"distance to gold is without {', '.join(labels)}: {reason}" for reason, labels in reasons.items()
    ]
