"""Finished runs side by side: their results for the terminal, one page for the browser."""

from pathlib import Path
from typing import Any

from mari_cli.errors import UserError
from mari_cli.report.page import render, write_report
from mari_cli.report.read import read_runs


def compare(runs: list[Path], out: Path | None = None) -> list[dict[str, Any]]:
    """Read ``runs`` (a sweep stands for its finished jobs) and return their results, in the order given.

    With ``out``, write the report there; nothing that exists is overwritten.
    """
    if not runs:
        raise UserError("no runs to compare", "`mari runs list` shows the finished runs")
    if out is not None and out.exists():
        what = "is a directory" if out.is_dir() else "exists already"
        raise UserError(f"report `{out}` {what}", "choose a file that does not exist yet")
    found = read_runs(runs)
    if out is not None:
        title = found[0].name if len(found) == 1 else f"{len(found)} runs compared"
        write_report(out, render(found, title=title))
    return [run.result for run in found]
