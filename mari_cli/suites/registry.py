"""Every metric by full name, which is `group/metric`: those of the corpora and those of the suites."""

from mari_cli.errors import UserError, nearest
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
"""Of benchmarks there are more than anybody lists: `describe` knows them too."""


def describe(full_name: str) -> Metric:
    """The metric of that full name, as in `forget/answer_nll`."""
    if full_name in METRICS:
        return METRICS[full_name]
    if benchmark := lm_metrics.describe_benchmark(full_name):
        return benchmark
    guess = nearest(full_name, METRICS)
    raise UserError(f"unknown metric `{full_name}`", f"did you mean `{guess}`?" if guess else None)


def headlines(view: View) -> list[str]:
    """Full names of what a short table or figure shows, in its order."""
    shown = [entry for entry in METRICS.values() if entry.headline is not None and view in entry.views]
    return [entry.name for entry in sorted(shown, key=lambda entry: entry.headline or 0)]


def judged_metrics(role: Role, *, suites: bool = False) -> list[str]:
    """Full names of what decides whether data is forgotten, or kept: what the corpora say of it, or what the
    suites do."""
    return [
        entry.name
        for entry in METRICS.values()
        if entry.role == role and (corpora.suite_of(entry.name) is not None) == suites
    ]
