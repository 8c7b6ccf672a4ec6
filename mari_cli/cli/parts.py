"""What the commands are made of: their epilogs, and the words that several of them take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mari_cli.cli.completion import complete_override

KEYS = """\
Without -c, a path chooses the option that reads it: model.path=X means model=pretrained, and
forget.path=X means forget=text for a .txt file or a folder of them, else forget=jsonl; likewise
retain.path and holdout.path."""


def epilog(*examples: str, keys: bool = False) -> str:
    # \b tells typer to keep the lines of the paragraph as they are
    lines = "\n".join(f"  {example}" for example in examples)
    return (f"{KEYS}\n\n" if keys else "") + f"\b\nExamples:\n{lines}"


def make_app(**kwargs: Any) -> typer.Typer:
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # local variables may hold personal text: no traceback prints them
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **kwargs,
    )


class TaskName(StrEnum):
    unlearn = "unlearn"
    finetune = "finetune"
    evaluate = "evaluate"
    audit = "audit"


class Launcher(StrEnum):
    basic = "basic"
    joblib = "joblib"
    submitit_local = "submitit_local"
    submitit_slurm = "submitit_slurm"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="What to change in the configuration, e.g. loss=npo train.steps=400.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A complete run, such as those in experiments/."),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Go on with a run that was cut off, from its last checkpoint."),
]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FOLDER", help="Where the runs are; else runs/ and sweeps/.", show_default=False),
]
Processes = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Train in N processes on this machine: one for each GPU. For several machines: torchrun.",
        show_default=False,
    ),
]
