"""Results as tables: drawn on a terminal, in plain aligned columns elsewhere."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from mari_cli.launch import Job, Option
    from mari_cli.metrics.metric import Metric
    from mari_cli.runs import RunSummary

METRICS = (
    "forget/token_accuracy",
    "forget/exact_match",
    "facts/unique_recall",
    "facts/shared_recall",
    "retain/exact_match",
    "privacy/loss_auc",
    "forget/answer_nll",
    "holdout/answer_nll",
    "tofu/forget_quality",
    "tofu/model_utility",
    "tofu/forget/truth_ratio",
)
"""What a terminal has room for, with a column for each benchmark; the report has everything."""
OURS = ("unlearned", "model")
"""The models of a result that the run itself made; the others (target, gold) are there to compare with."""
NOTHING = "–"


@dataclass(frozen=True)
class Grid:
    """Words and numbers in rows; ``numbers`` is the first column that holds numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int

    def drawn(self, *, plain: bool) -> "Table":
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(
            box=None if plain else SIMPLE_HEAD, pad_edge=False, padding=(0, 2 if plain else 1, 0, 0)
        )
        for index, column in enumerate(self.columns):
            header = column.replace("/", "\n") if plain else column.replace("/", "\n").replace("_", " ")
            table.add_column(header, justify="right" if index >= self.numbers else "left", no_wrap=plain)
        for row in self.rows:
            table.add_row(*row)
        return table


def print_grid(grid: Grid) -> None:
    """To stdout. In a pipe no line is wrapped or drawn, so that it reads well in a log and in `awk`."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(grid.drawn(plain=False))
        return
    console = Console(width=1000, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(grid.drawn(plain=True))
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def of_results(results: Sequence[dict[str, Any]]) -> Grid:
    """A row for each model; a target or gold that several runs share stands there once. Of several seeds the
    mean stands there, with half of its interval."""
    rows: list[tuple[str, str, dict[str, Any]]] = []
    seen = set()
    named: Counter[str] = Counter()
    for role in ("target", *OURS, "gold"):
        for result in results:
            model = result["models"].get(role)
            if model is None:
                continue
            if role not in OURS:
                if (identity := model.get("hash") or id(model)) in seen:
                    continue
                seen.add(identity)
            label = f"{role} ({result['name']})" if role in OURS else role
            named[label] += 1  # two runs of one method have one name
            label = f"{label} #{named[label]}" if named[label] > 1 else label
            rows.append((label, _seeds(result, model), model["metrics"]))
    metrics = _present(metrics for *_, metrics in rows)
    several = any(seeds for _, seeds, _ in rows)
    return Grid(
        ["model", *(["seeds"] if several else []), *metrics],
        [[name, *([seeds] if several else []), *_values(values, metrics)] for name, seeds, values in rows],
        numbers=1,
    )


def _seeds(result: dict[str, Any], model: dict[str, Any]) -> str:
    """How many a model's values are means over; nothing for one model that serves all seeds."""
    return str(len(result["seeds"])) if any("values" in value for value in model["metrics"].values()) else ""


def of_run(result: dict[str, Any]) -> Grid:
    """The few metrics of `METRICS` where the corpora were asked; all there are where only a suite was."""
    asked = any("forget/answer_nll" in model["metrics"] for model in result["models"].values())
    return of_results([result]) if asked else of_estimates(result)


def of_estimates(result: dict[str, Any]) -> Grid:
    """A row for each metric, with interval and number of items for each model."""
    models = {role: model["metrics"] for role, model in result["models"].items()}
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    columns = [column for role in models for column in (role, "interval", "n")]
    rows = [
        [name, *(cell for metrics in models.values() for cell in _cells(metrics.get(name)))] for name in names
    ]
    return Grid(["metric", *columns], rows, numbers=1)


def _cells(estimate: dict[str, Any] | None) -> list[str]:
    if estimate is None:
        return [NOTHING] * 3
    value, low, high = (
        NOTHING if estimate[key] is None else f"{estimate[key]:.4g}" for key in ("value", "low", "high")
    )
    return [value, NOTHING if low == NOTHING else f"[{low}, {high}]", str(estimate["n"])]


def of_sweep(jobs: Sequence["Job"], results: Sequence[Any]) -> Grid:
    """A row for each job: what set it apart, and what became of it. Jobs that only their seed sets apart are
    one row, with their mean and half of its interval."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.varied))
    methods = _alike(jobs, [key for key in keys if key != "seed"])
    several = len(methods) < len(jobs)
    if several:
        keys = [key for key in keys if key != "seed"]
    groups = methods if several else _alike(jobs, keys)
    found = [_of_group([(jobs[i], results[i]) for i in group]) for group in groups]
    metrics = _present(values for _, values in found)
    rows = [
        [
            ",".join(str(jobs[i].number) for i in group),
            *(jobs[group[0]].varied.get(key, NOTHING) for key in keys),
            *([str(done)] if several else []),
            "failed" if not done else "done" if done == len(group) else f"{done} of {len(group)} done",
            *_values(values, metrics),
        ]
        for group, (done, values) in zip(groups, found, strict=True)
    ]
    columns = ["job", *keys, *(["seeds"] if several else []), "status"]
    return Grid([*columns, *metrics], rows, numbers=len(columns))


def _alike(jobs: Sequence["Job"], keys: Sequence[str]) -> list[list[int]]:
    """Places of the jobs, those with the same values of ``keys`` together."""
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(tuple(job.varied.get(key) for key in keys), []).append(place)
    return list(groups.values())


def _of_group(group: Sequence[tuple["Job", Any]]) -> tuple[int, dict[str, Any]]:
    """How many jobs of a method were done, and its metrics over them."""
    from mari_cli.tasks.compare import merged

    done = {job.config.seed: result for job, result in group if isinstance(result, dict)}
    if not done:
        return 0, {}
    confidence = group[0][0].config.metrics.confidence
    return len(done), _ours(merged(list(done.values()), list(done), confidence=confidence))


def of_differences(pair: tuple[str, str], differences: Mapping[str, Any]) -> Grid:
    """Of two models, the first less the second; `by`: what was drawn to judge it."""
    rows = [
        [
            name,
            _signed(apart.value),
            _signed(apart.low),
            _signed(apart.high),
            apart.by,
            NOTHING if apart.separable is None else "yes" if apart.separable else "no",
        ]
        for name in _present([{name: None for name, apart in differences.items() if apart is not None}])
        for apart in [differences[name]]
    ]
    return Grid([" − ".join(pair), "difference", "low", "high", "by", "separable"], rows, numbers=1)


def of_plan(rows: Sequence[Sequence[str]]) -> Grid:
    return Grid(["figure", "value", "what it is"], rows, numbers=3)


BETTER = {"up": "higher", "down": "lower", "gold": "as gold"}


def of_metrics(metrics: Iterable["Metric"]) -> Grid:
    rows = [
        [metric.name, metric.unit, BETTER[metric.direction], metric.description.replace("`", "")]
        for metric in metrics
    ]
    return Grid(["metric", "unit", "better", "what it is"], rows, numbers=4)


def of_options(options: Sequence["Option"]) -> Grid:
    rows = [[f"{option.group}={option.name}", option.description] for option in options]
    return Grid(["choice", "what it is"], rows, numbers=2)


def of_runs(runs: Sequence["RunSummary"]) -> Grid:
    metrics = _present(
        ({name: {"value": value} for name, value in run.metrics.items()} for run in runs), METRICS
    )
    rows = [
        [str(run.path), run.task, run.name, str(run.status), run.created]
        + [_number(run.metrics.get(name)) for name in metrics]
        for run in runs
    ]
    return Grid(["run", "task", "name", "status", "created", *metrics], rows, numbers=5)


def _ours(result: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the model that the run made."""
    metrics: dict[str, Any] = next(
        result["models"][role]["metrics"] for role in OURS if role in result["models"]
    )
    return metrics


def _present(models: Iterable[dict[str, Any]], names: Sequence[str] = METRICS) -> list[str]:
    there = {name: None for metrics in models for name in metrics}
    benchmarks = [name for name in there if name.startswith("benchmark/")]
    # not the parts of what has a figure as a whole, nor its other figures: mmlu_stem, hellaswag_acc
    whole = [name for name in benchmarks if not any(name.startswith(f"{other}_") for other in benchmarks)]
    return [name for name in names if name in there] + whole


def _values(metrics: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [_estimate(metrics[name]) if name in metrics else NOTHING for name in names]


def _estimate(estimate: dict[str, Any]) -> str:
    """A value; over seeds with the longer half of its interval, and without a space, for `awk`."""
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    if "values" not in estimate or low is None or high is None:
        return _number(value)
    return f"{_number(value)}±{max(value - low, high - value):.3f}"


def _signed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
