"""Results as tables: drawn on a terminal, in plain aligned columns elsewhere."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from mari_cli.errors import counted, one_line, size
from mari_cli.search.aim import BESIDE, OURS

if TYPE_CHECKING:
    from rich.table import Table

    from mari_cli.launch import Option, SweepJob
    from mari_cli.metrics.metric import Metric
    from mari_cli.storage.run_list import RunSummary
    from mari_cli.tasks.push import Parcel
    from mari_cli.tasks.requests import RequestLine

NOTHING = "–"
NO_ANSWER = "(no word)"
"""Of a model that ends its answer at once."""
WIDEST = 1_000_000
"""Columns of a pipe: what is longer would be cut."""


@dataclass(frozen=True)
class Grid:
    """Words and numbers in rows; ``numbers`` is the first column that holds numbers. With ``grouped`` a
    terminal shows the first word of neighbouring rows once where it is the same."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int
    grouped: bool = False
    ruled: bool = False
    """Whether a terminal shows a space between rows: cells are longer than a line."""

    def drawn(self, *, plain: bool, stacked: bool = False) -> "Table":
        """As a rich table. ``stacked`` puts a number above its interval and a name in two lines, for a narrow
        terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(
            box=None if plain else SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 2 if plain else 1, 0, 0),
            show_lines=self.ruled and not plain,
        )
        for index, column in enumerate(self.columns):
            header = column if plain else column.replace("_", " ")
            header = header.replace("/", "\n") if index >= self.numbers else header  # of words it is a path
            header = header.replace(" ", "\n") if stacked else header
            table.add_column(header, justify="right" if index >= self.numbers else "left", no_wrap=plain)
        before = ""
        for first, *others in self.rows:
            repeated = self.grouped and not plain and first == before
            cells = ["" if repeated else first, *others]
            table.add_row(*map(_stacked, cells) if stacked else cells)
            before = first
        return table

    def parts(self, fits: "Callable[[Grid], bool]") -> "list[Grid]":
        """Grids to print one below the other. Each has the columns of words and as many columns of numbers as
        ``fits`` allows, but at least one."""
        found = []
        first = self.numbers
        while first < len(self.columns):
            last = first + 1
            while last < len(self.columns) and fits(self._part(first, last + 1)):
                last += 1
            found.append(self._part(first, last))
            first = last
        return found or [self]

    def _part(self, first: int, last: int) -> "Grid":
        columns = [*self.columns[: self.numbers], *self.columns[first:last]]
        rows = [[*row[: self.numbers], *row[first:last]] for row in self.rows]
        return replace(self, columns=columns, rows=rows)


def _stacked(cell: str) -> str:
    group, _, name = cell.rpartition("/")
    if group and not cell[0].isdigit():  # the name of a metric, not a number of items like `160/640`
        return f"{group}/\n{name}"
    return cell.replace(" [", "\n[").replace("±", "\n±")


def print_grid(grid: Grid) -> None:
    """Print ``grid`` on stdout. In a pipe no line is wrapped and no border drawn: logs and `awk` read it."""
    from rich.console import Console

    if sys.stdout.isatty():
        console = Console(highlight=False, markup=False)
        wide = console.options.update(width=1000)
        table = grid.drawn(plain=False)
        words_alone = grid.numbers == len(grid.columns)  # rich wraps words by itself
        if words_alone or console.measure(table, options=wide).maximum <= console.width:
            console.print(table)
            return

        def fits(part: Grid) -> bool:
            stacked = console.measure(part.drawn(plain=False, stacked=True), options=wide)
            # words of a label can be wrapped, numbers cannot
            return (stacked.minimum if part.grouped else stacked.maximum) <= console.width

        for part in grid.parts(fits):
            console.print(part.drawn(plain=False, stacked=True))
        return
    console = Console(width=WIDEST, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(grid.drawn(plain=True))
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def of_results(results: Sequence[dict[str, Any]]) -> Grid:
    """One row per metric and model, with interval and number of items. A target or gold that several runs
    share has one row. Runs that differ in their seed alone have one row: the mean, with its interval over
    seeds."""
    models = _models(results)
    several = any(seeds for _, seeds, _ in models)
    rows = [
        [name, label, *([seeds] if several else []), *_cells(metrics[name])]
        for name in _present(metrics for *_, metrics in models)
        for label, seeds, metrics in models
        if name in metrics
    ]
    columns = ["metric", "model", *(["seeds"] if several else []), "value", "interval", "n"]
    return Grid(columns, rows, numbers=2, grouped=True)


def _models(results: Sequence[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """(label, number of seeds, metrics) of every model: targets first, then what the runs made, then gold."""
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for role in ("target", *OURS, "gold"):
        there = [(result, model) for result in results if (model := result["models"].get(role)) is not None]
        if role not in OURS:  # runs of the same data may share it
            one = {str((m.get("hash") or id(m), r.get("data"))): (r, m) for r, m in reversed(there)}
            there = list(reversed(one.values()))
        for result, model in there:
            label = f"{role} ({result['name']})" if role in OURS or len(there) > 1 else role
            rows.append((label, _seeds(result, model), model["metrics"]))
    return rows


def _seeds(result: dict[str, Any], model: dict[str, Any]) -> str:
    """The number of seeds that the model's values are means over; empty where one model serves all seeds."""
    return str(len(result["seeds"])) if any("values" in value for value in model["metrics"].values()) else ""


def of_run(result: dict[str, Any]) -> Grid:
    """One row per metric, with all models side by side, their intervals, and the number of items. The rows
    are the headline metrics; where only a suite was asked, all its metrics."""
    from mari_cli.metrics.corpora import suite_of

    roles = [role for role in ("target", *OURS, "gold") if role in result["models"]]
    models = {role: result["models"][role]["metrics"] for role in roles}
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    if not all(map(suite_of, names)):
        names = _present(models.values())
    rows = [
        [
            name,
            *(" ".join(_cells(metrics.get(name))[:2]) for metrics in models.values()),
            "/".join(
                dict.fromkeys(str(of_role[name]["n"]) for of_role in models.values() if name in of_role)
            ),
        ]
        for name in names
    ]
    return Grid(["metric", *models, "n"], rows, numbers=1)


def of_matrix(found: dict[str, Any]) -> Grid:
    """The request × step matrix: a row for each metric and request, a column for each step, and gold's where
    there is one. A reading other than `as then` and `as before` follows the value after a colon."""
    from mari_cli.metrics.by_request import label_of_row, shown_metrics

    lines = [row for name in shown_metrics(found) for row in found["rows"] if row["metric"] == name]
    golds = [
        step
        for step in range(len(found["steps"]))
        if any(row["cells"][step] and row["cells"][step]["gold"] for row in lines)
    ]

    def told(cell: dict[str, Any] | None) -> str:
        if cell is None:
            return NOTHING
        word = word_in_cell(cell["reading"])
        return f"{_number(cell['value']['value'])}{word and f':{word}'}"

    rows = [
        [
            row["metric"],
            label_of_row(found, row["of"]),
            *map(told, row["cells"]),
            *(
                _number(cell["gold"]["value"]) if (cell := row["cells"][step]) and cell["gold"] else NOTHING
                for step in golds
            ),
        ]
        for row in lines
    ]
    headed = [*found["steps"], *(f"gold/{found['steps'][step]}" for step in golds)]
    return Grid(["metric", "request", *headed], rows, numbers=2, grouped=True)


def word_in_cell(reading: str) -> str:
    """A reading of the matrix without a space; empty where the test tells no difference."""
    from mari_cli.metrics.by_request import CellReading

    return "" if reading in (CellReading.still, CellReading.kept) else reading.replace(" ", "-")


def _cells(estimate: dict[str, Any] | None) -> list[str]:
    """Value, interval and number of items. No cell has a space in it, so that `awk` can split rows."""
    if estimate is None:
        return [NOTHING] * 3
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    interval = NOTHING if low is None or high is None else f"[{_digits(low, 3)},{_digits(high, 3)}]"
    return [NOTHING if value is None else _digits(value, 4), interval, str(estimate["n"])]


def _digits(value: float, digits: int) -> str:
    """``value`` with ``digits`` significant digits, one less below 0.01; an exponent only for large
    values."""
    size = abs(value)
    if size >= 10**digits:
        return f"{value:.0f}" if size < 1e6 else f"{value:.1e}"
    return f"{value:.{digits if size >= 0.01 else digits - 1}g}"


def of_sweep(jobs: Sequence["SweepJob"], results: Sequence[Any]) -> Grid:
    """One row per job: the values of the varied keys, the status, and each metric with half of its interval;
    the header has the number of items. Jobs that differ in their seed alone are one row, with their mean."""
    keys, groups, several = _methods(jobs)
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
    headed = [f"{name}/{_items(values[name] for _, values in found if name in values)}" for name in metrics]
    return Grid([*columns, *headed], rows, numbers=len(columns))


def nearest_to_gold(jobs: Sequence["SweepJob"], results: Sequence[Any]) -> str | None:
    """A sentence that names the job (or the method over its seeds) with the smallest distance to gold. None
    where fewer than two have a distance."""
    keys, groups, _ = _methods(jobs)
    found = []
    for group in groups:
        _, values = _of_group([(jobs[i], results[i]) for i in group])
        distance = values.get("distance_to_gold", {}).get("value")
        if distance is not None and isfinite(distance):
            found.append((distance, group, values["distance_to_gold"]))
    if len(found) < 2:
        return None
    _, group, estimate = min(found, key=lambda entry: entry[0])
    varied = ", ".join(f"{key}={value}" for key in keys if (value := jobs[group[0]].varied.get(key)))
    numbers = ",".join(str(jobs[i].number) for i in group)
    return f"nearest to gold: job {numbers} ({varied}), distance_to_gold {_estimate(estimate)}"


def _methods(jobs: Sequence["SweepJob"]) -> tuple[list[str], list[list[int]], bool]:
    """The varied keys, the indices of the jobs that share a row, and whether a row is over several seeds."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.varied))
    methods = _alike(jobs, [key for key in keys if key != "seed"])
    several = len(methods) < len(jobs)
    if several:
        keys = [key for key in keys if key != "seed"]
    return keys, methods if several else _alike(jobs, keys), several


def of_logs(logs: Sequence[dict[str, Any]]) -> Grid:
    """One row per log, each value with half of its interval; the header has the number of items."""
    found = [(log["name"], _ours(log["result"])) for log in logs]
    metrics = _present(values for _, values in found)
    from mari_cli.suites.tofu_metrics import IN_LOGS_ALONE

    for ours, theirs in IN_LOGS_ALONE.items():
        if any(theirs in values and ours not in values for _, values in found):
            metrics.append(theirs)
    rows = [[name, *_values(values, metrics)] for name, values in found]
    headed = [f"{name}/{_items(values[name] for _, values in found if name in values)}" for name in metrics]
    return Grid(["log", *headed], rows, numbers=1)


def _items(estimates: Iterable[dict[str, Any]]) -> str:
    """`n=160`, or `n=160-640` where the estimates have different numbers of items."""
    counts = sorted({estimate["n"] for estimate in estimates})
    return f"n={counts[0]}" if len(counts) == 1 else f"n={counts[0]}-{counts[-1]}"


def _alike(jobs: Sequence["SweepJob"], keys: Sequence[str]) -> list[list[int]]:
    """Indices of the jobs; those with the same values of ``keys`` are in one list."""
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(tuple(job.varied.get(key) for key in keys), []).append(place)
    return list(groups.values())


def _of_group(group: Sequence[tuple["SweepJob", Any]]) -> tuple[int, dict[str, Any]]:
    """The number of finished jobs of a method, and the metrics over these jobs."""
    from mari_cli.tasks.compare import merge_seeds

    done = {job.config.seed: result for job, result in group if isinstance(result, dict)}
    if not done:
        return 0, {}
    confidence = group[0][0].config.metrics.confidence
    return len(done), _ours(merge_seeds(list(done.values()), list(done), confidence=confidence))


def of_differences(pair: tuple[str, str], differences: Mapping[str, Any]) -> Grid:
    """The differences of two models, the first minus the second. `by` names what was resampled."""
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
    from mari_cli.suites.registry import headlines

    metrics = [name for name in headlines("runs") if any(name in run.metrics for run in runs)]
    rows = [
        [str(run.path), run.task, run.name, str(run.status), run.created]
        + [_number(run.metrics.get(name)) for name in metrics]
        for run in runs
    ]
    return Grid(["run", "task", "name", "status", "created", *metrics], rows, numbers=5)


def of_card(result: dict[str, Any]) -> Grid:
    """A row for each case of an audit."""
    roles = [role for role in BESIDE if role in result["models"]]
    rows = [
        [
            row["attack"].replace("_", " "),
            row["case"].replace("_", " "),
            *(
                " ".join(_cells(row["models"][role])[:2]) if role in row["models"] else NOTHING
                for role in roles
            ),
            str(next(iter(row["models"].values()))["n"]),
            row["verdict"],
        ]
        for row in result["audit"]
    ]
    return Grid(
        ["attack", "case", *(BESIDE[r] for r in roles), "n", "verdict"], rows, numbers=2, grouped=True
    )


def of_requests(lines: Sequence["RequestLine"]) -> Grid:
    rows = [
        [line.request, line.run, line.state]
        + [word or NOTHING for word in (line.when, line.weights, line.note)]
        for line in lines
    ]
    return Grid(["request", "run", "state", "when", "weights", "note"], rows, numbers=6, grouped=True)


def of_answers(questions: Sequence[str], answers: Mapping[str, Sequence[str]]) -> Grid:
    """A row for each question, and beside it what each model says. In a pipe an answer is one line."""
    shown = shown_lines if sys.stdout.isatty() else one_line
    rows = [
        [shown(question), *(shown(said[place]) or NO_ANSWER for said in answers.values())]
        for place, question in enumerate(questions)
    ]
    return Grid(["question", *answers], rows, numbers=len(answers) + 1, ruled=True)


def of_parcel(parcel: "Parcel") -> Grid:
    total = sum(map(parcel.size, parcel.files))
    rows = [[name, size(parcel.size(name))] for name in sorted(parcel.files)]
    return Grid(["file", "size"], [*rows, [counted(len(rows), "file"), size(total)]], numbers=1)


def shown_lines(text: str) -> str:
    """``text`` with its line breaks; other characters without a shape, which could move the cursor of a
    terminal, as escapes."""
    return "\n".join(map(one_line, text.split("\n")))


def _ours(result: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the model that the run made."""
    role = next(role for role in OURS if role in result["models"])
    metrics: dict[str, Any] = result["models"][role]["metrics"]
    return metrics


def _present(models: Iterable[dict[str, Any]]) -> list[str]:
    """The full names that a terminal shows: headline metrics, every benchmark as a whole, and all metrics of
    a suite that registers none."""
    from mari_cli.metrics.corpora import suite_of
    from mari_cli.suites.registry import METRICS, headlines

    there = {name: None for metrics in models for name in metrics}
    benchmarks = [name for name in there if name.startswith("benchmark/")]
    own = [name for name in there if suite_of(name) and name not in METRICS]
    # a benchmark's subsets and further figures are left out: mmlu_stem beside mmlu, hellaswag_acc
    whole = [name for name in benchmarks if not any(name.startswith(f"{other}_") for other in benchmarks)]
    return [name for name in headlines("terminal") if name in there] + whole + own


def _values(metrics: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [_estimate(metrics[name]) if name in metrics else NOTHING for name in names]


def _estimate(estimate: dict[str, Any]) -> str:
    """A value with the longer half of its interval, without a space, so that `awk` can split rows."""
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    if value is None or low is None or high is None:
        return _number(value)
    return f"{_number(value)}±{_number(max(value - low, high - value))}"


def _signed(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:+.1e}" if 0 < abs(value) < 5e-4 else f"{value:+.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    size = abs(value)
    return (
        f"{value:.1e}" if 0 < size < 5e-4 or size >= 1e5 else f"{value:.3f}" if size < 100 else f"{value:.1f}"
    )
