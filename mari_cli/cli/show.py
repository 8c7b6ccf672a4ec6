"""What a command prints when its task has ended: a table, which models cannot be told apart, and a path."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mari_cli.cli.door import note

if TYPE_CHECKING:
    from mari_cli.config import RunConfig
    from mari_cli.launch import SweepJob
    from mari_cli.tasks.compare import Compared


def show(config: "RunConfig", result: Any, *, json: bool = False) -> None:
    """Print the result of one run, or one table of several logs; with ``json``, the result's file as it is.

    An empty result prints nothing: of several processes only rank 0 returns a result.
    """
    from mari_cli.cli import tables

    if not result:
        return
    out = Path(config.out)
    several = "logs" in result  # logs of evaluations that others have run
    if json:
        file = out / ("results.json" if several else "result.json")
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
        return
    if "requests" in result:  # of a run of several requests
        from mari_cli.metrics.by_request import legend

        found = result["requests"]
        tables.print_grid(tables.of_matrix(found))
        typer.echo(f"{legend(found, lambda reading: tables.word_in_cell(reading) or 'no word')}\n")
    tables.print_grid(tables.of_logs(result["logs"]) if several else tables.of_run(result))
    if "audit" in result:
        typer.echo()
        tables.print_grid(tables.of_card(result))
        typer.echo(f"\n{result['notes'][0]}\n")
    typer.echo(out / "report.html" if (out / "report.html").exists() else out)


def show_comparison(found: "Compared") -> None:
    """Print the differences of two models, or which of several models the data cannot tell apart."""
    from mari_cli.cli import tables

    for warning in found.warnings:
        note(f"warning: {warning[:1].lower()}{warning[1:].rstrip('.')}")
    if found.pair and (apart := tables.of_differences(found.pair, found.differences)).rows:
        typer.echo()
        tables.print_grid(apart)
    if found.not_separable:
        typer.echo(f"\n{found.not_separable}\n")


def forgot_nothing(jobs: Sequence["SweepJob"], results: Sequence[Any]) -> str | None:
    """A sentence that names the jobs of which no step was kept: they left the model from before."""
    found = [
        f"{job.number} ({job.label})"
        for job, result in zip(jobs, results, strict=True)
        if isinstance(result, dict) and (result.get("training") or {}).get("kept_step") == 0
    ]
    return f"forgot nothing, for no step was kept: job {', job '.join(found)}" if found else None
