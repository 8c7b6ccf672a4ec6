"""Results as tables: drawn on a terminal, in plain aligned columns elsewhere."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from mari_cli.launch import Job, Option
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
    "benchmark/mmlu",
    "tofu/forget_quality",
    "tofu/model_utility",
    "tofu/forget/truth_ratio",
)
"""What a terminal has room for; the report has everything."""
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
    """A row for each model; a target or gold that several runs share stands there once."""
    rows: list[tuple[str, dict[str, Any]]] = []
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
            named[label] += 1  # two seeds of one method have one name
            rows.append((f"{label} #{named[label]}" if named[label] > 1 else label, model["metrics"]))
    metrics = _present(metrics for _, metrics in rows)
    return Grid(["model", *metrics], [[name, *_values(values, metrics)] for name, values in rows], numbers=1)


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
        [name, *(cell for metrics in models.values() for cell in _estimate(metrics.get(name)))]
        for name in names
    ]
    return Grid(["metric", *columns], rows, numbers=1)


def _estimate(estimate: dict[str, Any] | None) -> list[str]:
    if estimate is None:
        return [NOTHING] * 3
    value, low, high = (
        NOTHING if estimate[key] is None else f"{estimate[key]:.4g}" for key in ("value", "low", "high")
    )
    return [value, NOTHING if low == NOTHING else f"[{low}, {high}]", str(estimate["n"])]


def of_sweep(jobs: Sequence["Job"], results: Sequence[Any]) -> Grid:
    """A row for each job: what set it apart, and what became of it."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.varied))
    found = [_ours(result) if isinstance(result, dict) else None for result in results]
    metrics = _present(values for values in found if values is not None)
    rows = [
        [
            str(job.number),
            *(job.varied.get(key, NOTHING) for key in keys),
            "failed" if values is None else "done",
            *_values(values or {}, metrics),
        ]
        for job, values in zip(jobs, found, strict=True)
    ]
    return Grid(["job", *keys, "status", *metrics], rows, numbers=len(keys) + 2)


def of_plan(rows: Sequence[Sequence[str]]) -> Grid:
    return Grid(["figure", "value", "what it is"], rows, numbers=3)


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
    there = {name for metrics in models for name in metrics}
    return [name for name in names if name in there]


def _values(metrics: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [_number(metrics[name]["value"]) if name in metrics else NOTHING for name in names]


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
