"""A search that has ended, as the report reads it."""

from collections.abc import Sequence
from pathlib import Path

from mari_cli.report.search import Search, SearchedMethod
from mari_cli.search.aim import Aim
from mari_cli.search.trials import Trial


def describe_search(
    directory: Path,
    aim: Aim,
    *,
    seed: int,
    budget: str,
    report_seeds: Sequence[int],
    methods: Sequence[tuple[str, str, Sequence[Trial], Sequence[str]]],
) -> Search:
    """``methods``: the name of each, its ranges in words, its trials, and its finished runs of the report."""
    searched = tuple(
        SearchedMethod(name, ranges, tuple(trials), tuple(directory / run for run in reports))
        for name, ranges, trials, reports in methods
    )
    return Search(
        directory=directory,
        aim=aim,
        seed=seed,
        budget=budget,
        report_seeds=tuple(report_seeds),
        methods=searched,
    )
