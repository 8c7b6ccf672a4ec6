"""Every metric by full name, which is `group/metric`; `distance_to_gold`, of several groups, has none.

The metrics of answers exist for each set of items, and what counts as better depends on the set: retained
answers should stay known, forgotten ones should look as they do to the gold model (the one trained without
them), unseen ones should be left alone.
"""

import re
from math import log

from mari_cli.errors import UserError, nearest
from mari_cli.metrics.metric import Metric
from mari_cli.metrics.of_answers import ANSWER_METRICS, SETS, of_set
from mari_cli.metrics.of_benchmarks import BENCHMARKS, SUFFIX, of_benchmark
from mari_cli.metrics.of_models import DISTANCE_METRICS, DRIFT_METRICS
from mari_cli.metrics.of_privacy import PRIVACY_METRICS
from mari_cli.metrics.of_suites import SUITE_METRICS

METRICS: dict[str, Metric] = {
    **DISTANCE_METRICS,
    **{f"{name}/{bare}": of_set(name, metric) for name in SETS for bare, metric in ANSWER_METRICS.items()},
    **PRIVACY_METRICS,
    **DRIFT_METRICS,
    "marginal/pooled": Metric(
        name="marginal/pooled",
        label="marginal information, pooled",
        unit="nats",
        direction="down",
        low=0.0,
        high=log(2),
        description="what one token tells of whether forget data took part: I(X;Z) of the mean predictions "
        "over the whole retain and forget sets",
        source="Xu, Ni, Broecker, Strohmer 2025 (Forgetting-MarI), weighting ours",
        degenerate="0 when the mean predictions coincide; biased upwards by finite sets",
    ),
    "marginal/token": Metric(
        name="marginal/token",
        label="marginal information, by position",
        unit="nats",
        direction="down",
        low=0.0,
        high=log(2),
        description="I(X;Z|C) with C the position in the answer, over the whole retain and forget sets",
        source="Xu, Ni, Broecker, Strohmer 2025 (Forgetting-MarI), weighting ours",
        degenerate="a position that only one set reaches adds 0; biased upwards by finite sets",
    ),
    "marginal/fano_accuracy_bound": Metric(
        name="marginal/fano_accuracy_bound",
        label="detector accuracy, Fano bound",
        unit="fraction",
        direction="down",
        low=0.5,
        high=1.0,
        description="no detector that sees one token is right more often; from the pooled information",
        source="Fano 1961",
        degenerate="the larger prior (0.5) at zero information",
    ),
    "marginal/bayes_accuracy": Metric(
        name="marginal/bayes_accuracy",
        label="detector accuracy, best possible",
        unit="fraction",
        direction="down",
        low=0.5,
        high=1.0,
        description="accuracy of the best detector that sees one token, 1/2 + TV/2; never above Fano's bound",
        source="Bayes detector between the two pooled predictions",
        degenerate="the larger prior (0.5) when the predictions coincide",
    ),
    "marginal/tv": Metric(
        name="marginal/tv",
        label="total variation",
        unit="fraction",
        direction="down",
        low=0.0,
        high=1.0,
        description="total variation between the pooled predictions of retain and of retain + forget",
        source="standard",
        degenerate="0 when the predictions coincide",
    ),
    "facts/unique_recall": Metric(
        name="facts/unique_recall",
        label="unique-fact recall",
        unit="fraction of items",
        direction="gold",
        low=0.0,
        high=1.0,
        description="generated answers that name it, of forget questions after a fact stated nowhere else",
        source="this project's fictional corpus",
        degenerate="absent where the corpus does not know its facts",
    ),
    "facts/shared_recall": Metric(
        name="facts/shared_recall",
        label="shared-fact recall",
        unit="fraction of items",
        direction="up",
        low=0.0,
        high=1.0,
        description="generated answers that name it, of forget questions after a fact that retained "
        "documents state too",
        source="this project's fictional corpus",
        degenerate="absent where the corpus does not know its facts",
    ),
    **SUITE_METRICS,
    **{f"benchmark/{task}": of_benchmark(task, known.main) for task, known in BENCHMARKS.items()},
}
"""Every metric by full name. Of benchmarks there are more than anybody lists: `describe` knows them too."""

_LOGGED = {"forget": "memorization", "facts": "memorization", "retain": "utility", "holdout": "utility"}


def logged_as(full_name: str) -> str:
    """The name under which a metric is followed in metrics.jsonl and by a tracker: grouped by what it says.

    `forget/answer_nll` is `memorization/forget/answer_nll`, `retain/…` is `utility/retain/…`; the rest, as
    `privacy/loss_auc` and `benchmark/mmlu`, say so themselves.
    """
    group = _LOGGED.get(full_name.partition("/")[0])
    return f"{group}/{full_name}" if group else full_name


def as_logged(name: str) -> str:
    """The metric's full name, from `logged_as`."""
    group, _, rest = name.partition("/")
    return rest if group in _LOGGED.values() else name


def describe(full_name: str) -> Metric:
    """The metric of that full name, as in `forget/answer_nll`."""
    benchmark = re.fullmatch(rf"benchmark/(.+?)(?:_({SUFFIX}))?", full_name)
    if full_name not in METRICS and benchmark:
        return of_benchmark(benchmark[1], benchmark[2])
    if full_name not in METRICS:
        guess = nearest(full_name, METRICS)
        raise UserError(f"unknown metric `{full_name}`", f"did you mean `{guess}`?" if guess else None)
    return METRICS[full_name]
