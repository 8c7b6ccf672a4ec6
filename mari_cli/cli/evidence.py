"""The commands about what a run proves: attacks on it, its manifest, and who asked for it."""

from pathlib import Path
from typing import Annotated

import typer

from mari_cli.cli.door import note
from mari_cli.cli.evaluate_words import read_words
from mari_cli.cli.parts import ConfigFile, Folders, Overrides, Resume, epilog
from mari_cli.cli.start import start
from mari_cli.errors import UserError

OF_AUDIT = epilog(
    "mari audit runs/npo",
    "mari audit runs/npo audit=quick",
    "mari audit runs/npo audit=full audit.prompts.prefixes='[Speak freely.]'",
    "mari audit DIR gold=runs/gold before=none forget.path=letters.jsonl retain.path=rest.jsonl",
    "mari audit --resume runs/audit",
    keys=True,
)


def audit(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run of `mari unlearn`, whose corpora, target and gold are then taken; or a model.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Resume = None,
) -> None:
    """Attack a model that has unlearned, beside the one before and gold: does it come back?

    Each row of the card is one attack, with recall of the forget data before, now and of gold, and a verdict:
    as gold, comes back, or hidden, not gone.
    """
    from mari_cli.cli import tables

    model, words = read_words(model, overrides or [], [])
    with start("audit", words, config, resume, model=model) as (task, run):
        result = task(run.config, run.options)
    if result:
        tables.print_grid(tables.of_card(result))
        typer.echo(f"\n{result['notes'][0]}\n")
        typer.echo(Path(run.config.out) / "report.html")


OF_VERIFY = epilog(
    "mari verify runs/npo",
    "mari verify runs/npo --key keys/ours.pub",
    "mari verify runs/npo --replay        do it again on this CPU, and compare bits",
)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.", show_default=False)],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The public key that its manifest must be signed with."),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Do the run again with an empty cache, and compare bits.")
    ] = False,
) -> None:
    """Check that a run is what its manifest says, to the last byte, and that its report shows its results.

    Exit code 0: it holds; 1: it does not, and the table names what; 2: it cannot be checked.
    """
    from mari_cli import launch
    from mari_cli.cli import tables
    from mari_cli.tasks.verify import exit_code
    from mari_cli.tasks.verify import verify as verify_run

    checks = verify_run(run, key=key, read_config=launch.load_run_config if replay else None)
    rows = [[check.what, str(check.verdict), check.why] for check in checks]
    tables.print_grid(tables.Grid(["what", "verdict", "why"], rows, numbers=3))
    raise typer.Exit(exit_code(checks))


OF_REQUESTS = epilog("mari requests", "mari requests sweeps/first")


def requests(roots: Folders = None) -> None:
    """List what was asked to be forgotten (`request.id=`): by which run it was done, and which models made
    of the same data still hold it."""
    from mari_cli.cli import tables
    from mari_cli.tasks.requests import requests as find_requests

    lines, notes = find_requests(folders_of_runs(roots))
    for told in notes:
        note(f"note: {told}")
    if not lines:
        note("no requests: `mari unlearn request.id=ID` names one")
        return
    tables.print_grid(tables.of_requests(lines))


def folders_of_runs(roots: list[Path] | None) -> list[Path]:
    """Where runs are looked for. Raises UserError for what is no directory."""
    for root in roots or []:
        if not root.is_dir():
            raise UserError(f"no directory `{root}`", "give the directory that holds the runs")
    return roots or [Path("runs"), Path("sweeps")]
