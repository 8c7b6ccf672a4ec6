"""Whether a run will measure what a search is for, asked before the first step."""

from mari_cli.config import FileCorpus, RunConfig, UnlearnRun
from mari_cli.errors import UserError
from mari_cli.metrics.corpora import DISTANCE, suite_of
from mari_cli.search.aim import Aim
from mari_cli.suites.registry import describe


def choose_aim(config: RunConfig, metric: str, direction: str | None) -> Aim:
    """The aim of a search over ``config``; UserError where no run would measure it.

    ``direction``: `down`, `up`, or None: as the metric says. What the configuration alone cannot tell, as
    whether a corpus marks its facts, is asked of the first finished runs.
    """
    entry = describe(metric)
    towards = direction or entry.direction
    if entry.is_test and direction is None:
        raise UserError(
            f"`{metric}` is the p-value of a test, and no aim by itself", "say it: `sweep.direction=maximise`"
        )
    if reason := _is_not_measured(config, metric):
        raise UserError(f"`sweep.aim={metric}` is not measured: {reason[0]}", reason[1])
    if towards == "gold" and not _has_gold(config):
        raise UserError(
            f"`sweep.aim={metric}` is best at gold's value, and there is no gold model",
            "give one, `gold=DIR` or `gold=finetune`, or say `sweep.direction=minimise`",
        )
    assert towards in ("down", "up", "gold")
    return Aim(metric, towards)  # type: ignore[arg-type]


def _is_not_measured(config: RunConfig, metric: str) -> tuple[str, str] | None:
    """Why not, and what helps; None where it is, as far as the configuration tells."""
    (group, _, asked), measured = metric.partition("/"), config.metrics
    unlearns = isinstance(config, UnlearnRun)
    if group == DISTANCE and not unlearns:
        return "a run of `mari finetune` has no gold model", "choose another aim, as `retain/token_accuracy`"
    if group == DISTANCE and not _has_gold(config):
        return "there is no gold model", "give one: `gold=DIR`, or `gold=finetune`; or choose another aim"
    if (group in ("holdout", "privacy") or metric.endswith("_auc")) and not config.holdout.is_given:
        return "there is no holdout", "give one: `holdout.path=FILE`; or choose another aim"
    if group == "marginal" and not measured.marginal:
        return "`metrics.marginal` is false", "`metrics.marginal=true`"
    if group in ("forget", "retain", "holdout") and "rouge" in metric and not measured.generate:
        return "`metrics.generate` is false", "`metrics.generate=true`"
    if group == "facts" and isinstance(config.forget, FileCorpus):
        return "no file marks its facts, the fictional corpus does", "choose another aim"
    # a group, as `mmlu`, has figures of its parts, and a task further figures, as `hellaswag_acc`
    begins = tuple(name.removesuffix("_sample") for name in measured.benchmarks)
    if group == "benchmark" and not asked.startswith(begins):
        return "`metrics.benchmarks` does not ask it", f"`metrics.benchmarks=[{asked}]`"
    suite = suite_of(metric)
    if suite and (not isinstance(config, UnlearnRun) or config.suite.kind == "corpora"):
        return f"no suite is asked, and it belongs to `{suite}`", "choose the suite: `mari config list suite`"
    return None


def _has_gold(config: RunConfig) -> bool:
    if not isinstance(config, UnlearnRun):
        return False
    return config.gold not in ("auto", "none") or (config.gold == "auto" and config.finetunes_target)
