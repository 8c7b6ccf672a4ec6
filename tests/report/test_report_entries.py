"""A new entry is seen everywhere without any other change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import write_run

from mari_cli.cli import tables
from mari_cli.metrics.aggregation import Column, mean_of
from mari_cli.report.narrative import summarise
from mari_cli.report.page import render
from mari_cli.report.read import read_runs
from mari_cli.suites.registry import METRICS
from mari_cli.tasks.compare import compare

NAME = "forget/new"
ENTRY = replace(
    METRICS["forget/exact_match"],
    name=NAME,
    label="forget new metric",
    aggregate=mean_of(Column(name="exact_match")).on("forget"),
    headline=41,
    says="Forget data: what is new",
    short="novelty",
)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two runs that measured the new metric: the share of items of which the loss is below 0.1."""
    monkeypatch.setitem(METRICS, NAME, ENTRY)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, method in zip(paths, ("mari", "weak"), strict=True):
        write_run(path, method=method)
        result = json.loads((path / "result.json").read_text())
        rows = [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
        for role, model in result["models"].items():
            mine = [
                row["exact_match"]
                for row in rows
                if (row["model"], row["set"], row.get("suite")) == (role, "forget", None)
            ]
            value = sum(mine) / len(mine)
            model["metrics"][NAME] = {
                "value": value,
                "n": len(mine),
                "low": value - 0.05,
                "high": value + 0.05,
            }
        (path / "result.json").write_text(json.dumps(result))
    return paths


def test_a_new_metric_is_in_terminal_report_figures_and_paired_tests(
    pair: list[Path],
) -> None:
    compared = compare(pair)
    assert NAME in [row[0] for row in tables.of_run(compared.results[0]).rows]
    assert compared.differences[NAME].by == "items"
    page = render(read_runs(pair[:1]), title="new")
    assert "forget new metric</text>" in page  # at a glance
    assert "<td>new metric</td>" in page  # among all numbers, and without a page of its own no link
    assert "Forget data: what is new" in page
    summary = summarise(read_runs(pair[1:]))
    assert "six measures" in summary.headline
    [measure] = [m for claim in summary.claims for m in claim.measures if m.says == ENTRY.says]
    assert measure.reading == "not yet forgotten"
