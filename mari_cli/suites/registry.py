"""Every metric by its full name `group/metric`: those of the corpora and those of the suites."""

from mari_cli.errors import UserError, did_you_mean
from mari_cli.metrics import corpora
from mari_cli.metrics.metric import Metric, Metrics, Role, View, register
from mari_cli.suites import lm_metrics, muse_metrics, rwku_metrics, tofu_metrics

METRICS: Metrics = register(
    [
        *corpora.METRICS,
        *tofu_metrics.METRICS,
        *muse_metrics.METRICS,
        *rwku_metrics.METRICS,
        *lm_metrics.METRICS,
    ]
)
"""Benchmarks of lm_eval are too many to list; `describe` knows them too."""


def describe(full_name: str) -> Metric:
    """The metric with this full name, as `forget/answer_nll`. Raises UserError for an unknown name."""
    if full_name in METRICS:
        return METRICS[full_name]
    if benchmark := lm_metrics.describe_benchmark(full_name):
        return benchmark
    raise UserError(
        f"unknown metric `{full_name}`", did_you_mean(full_name, METRICS, "`mari metrics` lists every metric")
    )


def headlines(view: View) -> list[str]:
    """Full names of the metrics that a short table or figure shows, in its order."""
    shown = [entry for entry in METRICS.values() if entry.headline is not None and view in entry.views]
    return [entry.name for entry in sorted(shown, key=lambda entry: entry.headline or 0)]


def judged_metrics(role: Role, *, suites: bool = False) -> list[str]:
    """Full names of the metrics that decide whether data is forgotten, or kept: those of the corpora, or with
    ``suites`` those of the suites."""
    return [
        entry.name
        for entry in METRICS.values()
        if entry.role == role and (corpora.suite_of(entry.name) is not None) == suites
    ]
