"""The commands with which people meet what a run made: they ask it, and hand it on."""

import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mari_cli.cli.door import note, refuse
from mari_cli.cli.parts import epilog
from mari_cli.errors import UserError

if TYPE_CHECKING:
    from mari_cli.tasks.ask import Conversation

QUIT = ("/quit", "/exit", "/q")
OF_ASK = epilog(
    'mari ask runs/npo "Who taught Juno Dorner to read?"',
    "mari ask runs/npo                    a prompt; /quit or Ctrl-D ends it",
    "mari ask runs/npo --file questions.txt --json",
    'mari ask runs/npo "Who are you?" --temperature 0.8 --seed 1',
    'mari ask runs/diary "On Monday I" --continue',
)


OF_PUSH = epilog(
    "mari push runs/npo somebody/forgetful --dry-run",
    "mari push runs/npo somebody/forgetful",
    "mari push runs/npo somebody/forgetful --public --revision second --overwrite",
)


FinishedRun = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A finished run of `mari unlearn` or `mari finetune`.", show_default=False
    ),
]


class DeviceName(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def ask(
    run: FinishedRun,
    questions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help="What is asked; `-` reads a question a line from stdin. Without a question: interactive.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Questions, one a line.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most tokens of an answer; else as in the run's evaluation."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 gives the most probable tokens; above, answers are drawn.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the drawn answers; else 0.", show_default=False)
    ] = None,
    device: Annotated[DeviceName | None, typer.Option(help="Where the models run; else as the run.")] = None,
    before: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead of the run's model before; or `none`.")
    ] = None,
    gold: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead of the run's gold model; or `none`.")
    ] = None,
    continues: Annotated[
        bool | None,
        typer.Option(
            "--continue/--answer",
            help="Whether the words are the beginning of a text, in no template; else as in the run.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Ask the models before, now and gold, and show their answers side by side.

    Questions are written as in the run's evaluation (chat template, system prompt), and answered greedily, so
    that a question of the report gets the answer in the report. Nothing is stored.
    """
    from mari_cli import launch
    from mari_cli.tasks.models_of_run import models_of_run, require_checkpoint

    asked = _questions(questions or [], file)
    if seed is not None and not temperature:
        raise UserError("`--seed` has no effect on greedy answers", "`--temperature 0.8` draws answers")
    if not math.isfinite(temperature):
        raise UserError(f"`--temperature {temperature}` is no temperature", "0.8 is one")
    if asked is None and as_json:
        raise UserError("`--json` needs questions", "give them as words, with `--file`, or on stdin")
    require_checkpoint(run)
    config: Any = launch.load_run_config(run)
    models = models_of_run(run, config, before=before, gold=gold)
    for told in models.notes:
        note(f"note: {told}")
    from mari_cli.tasks.ask import Conversation, HowToAsk

    how = HowToAsk(max_tokens, temperature, seed or 0, device and str(device), continues)
    conversation = Conversation(run, config, models, how, keeps=asked is None)
    if asked is None:
        _talk(conversation)
        return
    answers = conversation.ask(asked)
    if as_json:
        typer.echo(_as_json(conversation, asked, answers))
    else:
        _show(asked, answers)


def _questions(words: list[str], file: Path | None) -> list[str] | None:
    """What is asked; None: a person is at a terminal, and has yet to ask."""
    found = [word for word in words if word != "-"]
    if file is not None:
        if not file.is_file():
            raise UserError(f"no file `{file}`", "`--file` takes a text file with a question on each line")
        found += _lines(file.read_bytes(), f"`{file}`")
    elif "-" in words or not (words or sys.stdin.isatty()):
        found += _lines(sys.stdin.buffer.read(), "stdin")
    elif not words and sys.stdout.isatty():
        return None
    empty = [number for number, question in enumerate(found, start=1) if not question.strip()]
    if empty or not found:
        what = f"question {empty[0]} is empty" if found else "no question was asked"
        raise UserError(what, 'as `mari ask RUN "Who are you?"`, with `--file`, or on stdin')
    return found


def _lines(content: bytes, where: str) -> list[str]:
    """The questions in ``content``, without lines that are empty."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8", "save the questions as UTF-8") from error
    found = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not found:
        raise UserError(f"no question was asked: {where} is empty", "write one on each line")
    return found


def _talk(conversation: "Conversation") -> None:
    """Ask what a person types, until they have enough. What they type is kept nowhere."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (the keys of a line editor; its history ends with the process)
    conversation.load()
    note("a question a line; /quit or Ctrl-D ends")
    count = 0
    while True:
        try:
            question = input("> ")
        except EOFError:
            typer.echo()
            return
        if question.strip() in QUIT:
            return
        if not question.strip():
            continue
        try:
            _show([question], conversation.ask([question], asked_before=count))
        except UserError as error:
            refuse(str(error), error.hint)
        count += 1


def _show(questions: list[str], answers: dict[str, list[str]]) -> None:
    from mari_cli.cli import tables

    tables.print_grid(tables.of_answers(questions, answers))


def _as_json(conversation: "Conversation", questions: list[str], answers: dict[str, list[str]]) -> str:
    import json

    models = conversation.models.models
    content = {
        "run": str(conversation.run),
        "models": {word: model.config.path for word, model in models.items()},
        "max_tokens": conversation.max_tokens,
        "temperature": conversation.how.temperature,
        "seed": conversation.how.seed if conversation.how.temperature else None,
        "continues": conversation.continues,
        "answers": [
            {"question": question} | {word: said[place] for word, said in answers.items()}
            for place, question in enumerate(questions)
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def push(
    run: FinishedRun,
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="USER/NAME, or NAME of your own.", show_default=False)
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may read it; else a new repository is private.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Where the commit goes; else the main branch.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files; send nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what the repository holds.")
    ] = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Push though the run is not what its manifest says.")
    ] = False,
) -> None:
    """Upload the model of a run and its card to the Hugging Face hub, as one commit.

    The token is that of `hf auth login`, or HF_TOKEN; HF_ENDPOINT names another hub. Of a run that kept
    adapters alone, these are uploaded.
    """
    from mari_cli.cli import tables
    from mari_cli.tasks.push import pack
    from mari_cli.tasks.push import push as send

    parcel = pack(run, repo, unverified=unverified)
    for told in parcel.notes:
        note(f"note: {told}")
    if dry_run:
        tables.print_grid(tables.of_parcel(parcel))
        return
    address, notes = send(parcel, public=public, revision=revision, overwrite=overwrite)
    for told in notes:
        note(f"note: {told}")
    tables.print_grid(tables.of_parcel(parcel))
    typer.echo(address)
