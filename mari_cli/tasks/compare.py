"""Finished runs side by side: their results for the terminal, one page for the browser."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mari_cli.errors import UserError, counted, one_line
from mari_cli.metrics.difference import Difference
from mari_cli.report.comparison import (
    comparison_rows,
    confidence_of,
    data_hashes,
    difference,
    metric_names,
    metrics_over_seeds,
    not_separable,
    results,
)
from mari_cli.report.narrative import confidence, summarise
from mari_cli.report.page import render, write_report
from mari_cli.report.read import estimates_of, read_runs
from mari_cli.report.search import Search, SearchedMethod
from mari_cli.search.trials import Trial
from mari_cli.storage.room_on_disk import require_writable
from mari_cli.storage.run_list import run_directories, unfinished_jobs
from mari_cli.tasks.examined import as_json


@dataclass(frozen=True)
class Compared:
    results: list[dict[str, Any]]
    """As `merge_seeds` makes them, those of one method over its seeds in one, each with the hashes of its
    data. Of several with one name each has the name that it has in the report."""
    pair: tuple[str, str] | None
    """What the differences are of, where there are two models; None for any other number of them."""
    differences: dict[str, Difference]
    """Of the pair, the first less the second, by metric."""
    not_separable: str | None
    """Which of them the data cannot tell apart, in words."""
    warnings: list[str]
    """What to know before the numbers are compared."""


def compare(runs: list[Path], out: Path | None = None, *, search: Search | None = None) -> Compared:
    """Read ``runs`` (a sweep stands for its finished jobs) and set them side by side, in the order given.

    With ``out``, write the report there; nothing that exists is overwritten. ``search``: what they are the
    result of, which the report then shows, too.
    """
    if not runs:
        raise UserError("no runs to compare", "`mari runs list` shows the finished runs")
    if out is not None:
        require_writable(out, "--out")
    found = read_runs(runs)
    if out is not None:
        title = found[0].name if len(found) == 1 else f"{len(found)} runs compared"
        write_report(out, render(found, title=title, search=search))
    rows = comparison_rows(found)
    made = results(rows)
    pair, differences = None, {}
    if len(made) == 2:
        pair = (made[0].label, made[1].label)
        told = ((name, difference(name, made[0].side, made[1].side)) for name in metric_names(made))
        differences = {name: apart for name, apart in told if apart is not None}
    names = Counter(row.run.name for row in made)
    given = Counter(run.resolve() for path in runs for run in run_directories(path))
    warned = [f"`{one_line(run.name)}` was given more than once." for run, n in given.items() if n > 1]
    for path in runs:
        if cut := len(unfinished_jobs(path)):
            where = one_line(path.resolve().name)
            warned.append(f"left out of `{where}`: {counted(cut, 'job')} begun and not finished.")
    return Compared(
        results=[
            merge_seeds([run.result for run in row.runs], row.seeds, confidence=confidence_of(row.runs))
            | {"data": data_hashes(row.run), "name": row.run.name if names[row.run.name] == 1 else row.label}
            for row in made
        ],
        pair=pair,
        differences=differences,
        not_separable=not_separable(rows, confidence=confidence(found)),
        warnings=[*warned, *summarise(found).warnings],
    )


def describe_search(
    directory: Path, methods: Sequence[tuple[str, str, Sequence[Trial], Sequence[str]]], **about: Any
) -> Search:
    """A search that has ended, as the report reads it. ``methods``: the name of each, its ranges in words,
    its trials, and its finished runs of the report; ``about``: the other fields of `Search`."""
    searched = (
        SearchedMethod(name, ranges, tuple(trials), tuple(directory / run for run in reports))
        for name, ranges, trials, reports in methods
    )
    return Search(directory=directory, methods=tuple(searched), **about)


def merge_seeds(
    found: Sequence[dict[str, Any]], seeds: Sequence[int], *, confidence: float = 0.95
) -> dict[str, Any]:
    """Results of runs that differ in their seed alone, as one: means, Student's t intervals, each seed's
    values. A single result is left as it is."""
    [first, *others] = found
    if not others:
        return first
    roles = [role for role in first["models"] if all(role in result["models"] for result in others)]
    models = {}
    for role in roles:
        of_seeds = [result["models"][role] for result in found]
        hashes = list(dict.fromkeys(str(model.get("hash")) for model in of_seeds))
        metrics = {seed: estimates_of(model["metrics"]) for seed, model in zip(seeds, of_seeds, strict=True)}
        over = metrics_over_seeds(metrics, confidence=confidence)
        one = role in ("target", "gold") and len(hashes) == 1
        models[role] = of_seeds[0] if one else {"metrics": as_json(over), "hash": " ".join(hashes)}
    return {"name": first["name"], "seeds": list(seeds), "models": models}
