"""Every command: its arguments, its help with examples that run, and a call of the task that does the work.

A command imports its task in its body, so that help needs no torch. stdout carries results (the final table,
paths, YAML), stderr carries everything else.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mari_cli import __version__
from mari_cli.cli import evidence, people
from mari_cli.cli.door import Door, note
from mari_cli.cli.evaluate_words import read_words
from mari_cli.cli.evidence import folders_of_runs
from mari_cli.cli.parts import (
    ConfigFile,
    Folders,
    Launcher,
    Overrides,
    Processes,
    Resume,
    TaskName,
    epilog,
    make_app,
)
from mari_cli.cli.searching import run_search
from mari_cli.cli.show import forgot_nothing, show, show_comparison
from mari_cli.cli.start import LoadedLater, check_runs, start
from mari_cli.errors import UserError, counted
from mari_cli.options import RunOptions

app = make_app(cls=Door)
config_app = make_app(
    no_args_is_help=True,
    help="Look at configurations without running anything.",
    epilog=epilog("mari config show loss=npo", "mari config list loss"),
)
runs_app = make_app(no_args_is_help=True, help="Look at what was run.", epilog=epilog("mari runs list"))
app.add_typer(config_app, name="config")
app.add_typer(runs_app, name="runs")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mari {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog=epilog(
        "mari unlearn                         the whole of it on a tiny model, without downloads",
        "mari unlearn model.path=DIR forget.path=letters.jsonl retain.path=rest.jsonl",
        "mari plan                            what that would cost: memory, time, disk",
        "mari sweep loss=mari,kl_ga,npo       one run for each, and a table",
        "mari config show                     every key with its value",
    ),
)
def mari(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make a language model forget, and measure that it did."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    epilog=epilog(
        "mari finetune",
        "mari finetune corpora=retain out=runs/gold",
        "mari finetune model=stories15m forget=tofu train.epochs=14",
        "mari finetune --resume runs/gold",
        keys=True,
    )
)
def finetune(
    overrides: Overrides = None, config: ConfigFile = None, resume: Resume = None, nproc: Processes = 1
) -> None:
    """Teach a model the forget and retain corpora (a target), or the retain corpus alone (a gold model)."""
    with start("finetune", overrides, config, resume, processes=nproc) as (task, run):
        result = task(run.config, run.options)
    show(run.config, result)


@app.command(
    epilog=epilog(
        "mari unlearn",
        "mari unlearn loss=npo loss.beta=0.2 train.steps=400 out=runs/npo",
        "mari unlearn model.path=DIR forget.path=letters.jsonl retain.path=rest.jsonl",
        "mari unlearn model.path=DIR forget.path=diary.txt forget.fraction=0.1",
        "mari unlearn model.path=DIR forget.requests=[may.jsonl,june.jsonl] retain.path=rest.jsonl",
        "mari unlearn -c experiments/demo/run.yaml seed=1",
        "mari unlearn --nproc 8 model.path=DIR forget.path=letters.jsonl retain.path=rest.jsonl",
        "mari unlearn --resume runs/npo",
        keys=True,
    )
)
def unlearn(
    overrides: Overrides = None, config: ConfigFile = None, resume: Resume = None, nproc: Processes = 1
) -> None:
    """Make a model forget one corpus and keep another; measure it before, after, and beside a gold model.

    Without arguments: a tiny GPT-2, built and trained here on an invented archive of people.
    """
    with start("unlearn", overrides, config, resume, processes=nproc) as (task, run):
        result = task(run.config, run.options)
    show(run.config, result)


@app.command(
    epilog=epilog(
        "mari plan",
        "mari plan model.path=DIR forget.path=letters.jsonl retain.path=rest.jsonl --device H100",
        "mari plan model=llama_3_2_1b --lengths 512 --memory 40GiB",
        "mari plan model=llama_3_1_8b --lengths 64+192 --device A100 train.forget_batch=8 --json",
        "mari plan model=llama_3_1_8b --lengths 1024 --device H100 --nproc 2 train.parallel=fsdp",
        keys=True,
    )
)
def plan(
    overrides: Overrides = None,
    config: ConfigFile = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Stands for corpora and tokenizer: 512 is running text in blocks of 512 tokens, 64+48 "
            "prompts of 64 tokens with answers of 48; with a comma, forget and retain: 512,1024.",
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a step must fit, as 40GiB; else the device's.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="H200, H100, A100, L40S, RTX4090 or cpu; else what is here."),
    ] = None,
    nproc: Annotated[
        int,
        typer.Option(
            "--nproc",
            min=1,
            metavar="N",
            help="Plan for N processes, with such a device each.",
            show_default=False,
        ),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say what a run of `mari unlearn` would cost: operations, memory, disk and time, and what makes it fit.

    In seconds, without weights and without a GPU: the real step runs once on tensors that have shapes and no
    content.
    """
    from mari_cli import launch

    cfg: Any = launch.configured(launch.Experiment("unlearn", overrides or [], config))

    from mari_cli.tasks.early_checks import check_beside

    check_beside(cfg)

    from mari_cli.cli import tables  # what follows loads torch: a mistyped key is refused before
    from mari_cli.tasks import plan_table
    from mari_cli.tasks.plan import plan as plan_run

    found = plan_run(cfg, lengths=lengths, memory=memory, device=device, processes=nproc)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        tables.print_grid(tables.Grid(["figure", "value", "what it is"], plan_table.rows(found), numbers=3))


@app.command(
    epilog=epilog(
        "mari evaluate runs/npo",
        "mari evaluate runs/npo metrics=benchmarks gold=runs/gold",
        "mari evaluate --resume runs/evaluation",
        "mari evaluate HuggingFaceTB/SmolLM2-135M-Instruct forget=tofu metrics=fast",
        "mari evaluate runs/npo suite=tofu gold=runs/gold",
        "mari evaluate DIR before=runs/full gold=runs/gold forget.path=letters.jsonl retain.path=rest.jsonl",
        "mari evaluate --from-log eval_log_aggregated.json --gold-log retain90/eval_log_aggregated.json",
        "mari evaluate --from-log evals/ --gold-log retain90/TOFU_EVAL.json",
        keys=True,
    )
)
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL_OR_RUN",
            help="A hub id, a directory, a .gguf file; or a run, whose model and corpora are then taken.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Resume = None,
    from_log: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="LOG...",
            help="Instead of a model: the log of a TOFU evaluation that others have run, of TOFU's or of "
            "OpenUnlearning's code, or a folder with it; of several logs, or a folder of them, one table.",
            show_default=False,
        ),
    ] = None,
    gold_log: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="With --from-log: the retain model's, for forget quality."),
    ] = None,
    target_log: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="With --from-log: that from before, for the overall score."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Measure a model, training nothing; or compute TOFU's numbers again from the logs of evaluations."""
    more = {"gold_log": gold_log, "target_log": target_log}
    model, words = read_words(model, overrides or [], from_log or [], **more)
    with start("evaluate", words, config, resume, model=model) as (task, run):
        result = task(run.config, run.options)
    show(run.config, result, json=as_json)


@app.command(
    epilog=epilog(
        "mari sweep loss=mari,kl_ga,npo seed=0,1,2 out=sweeps/first",
        "mari sweep -c experiments/demo/run.yaml",
        "mari sweep loss.mari_weight=1,3,10,30 --launcher joblib --jobs 2",
        "mari sweep loss=mari,npo --launcher submitit_slurm hydra.launcher.partition=gpu",
        "mari sweep --task finetune corpora=both,retain",
        "mari sweep loss=npo,simnpo 'train.lr=tag(log,interval(1e-4,1e-3))' 'npo:loss.beta=choice(0.1,0.5)' "
        "sweep.trials=6 sweep.report_seeds=[1,2]",
        "mari sweep --resume sweeps/first",
        keys=True,
    )
)
def sweep(
    overrides: Overrides = None,
    config: ConfigFile = None,
    task: Annotated[
        TaskName, typer.Option(help="What each job does; a file says so itself.")
    ] = TaskName.unlearn,
    launcher: Annotated[
        Launcher | None, typer.Option(help="Where jobs run: one by one here, side by side here, or on SLURM.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs side by side, with --launcher joblib; else one for each core."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="SWEEP",
            help="Go on with a sweep that was cut off: finished jobs stay, cut ones go on, the rest begin.",
        ),
    ] = None,
) -> None:
    """Run every combination of `KEY=A,B,…`, and compare what came out; or search settings for each method.

    All combinations are checked before the first starts. A job that fails does not stop the others; the exit
    code is then 1.

    A range makes it a search: choice(1,3,10), interval(0,1), tag(log,interval(1e-5,1e-3)) or
    int(interval(1,8)). Commas separate methods, METHOD:KEY=RANGE or METHOD:KEY=VALUE is of one method alone,
    and every method gets sweep.trials trials of the same steps. sweep.aim is the metric to choose by
    (distance_to_gold), and sweep.report_seeds names the seeds on which the best trial of each method is run
    again.
    """
    from mari_cli import launch

    if jobs is not None and launcher is not Launcher.joblib:
        raise UserError("`--jobs` needs `--launcher joblib`", "the basic launcher runs one job after another")
    extra = [f"hydra/launcher={launcher}"] if launcher else []
    extra += [f"hydra.launcher.n_jobs={jobs}"] if jobs else []
    given = [*(overrides or []), *extra]
    if resume is None:
        planned = launch.plan(launch.Experiment(str(task), given, config))
        check_runs(planned.configs, RunOptions(command=()))
    elif config or not all(launch.is_of_launcher(override) for override in given):
        raise UserError(
            "a sweep goes on as it began: `--resume` takes no KEY=VALUE and no `-c`, only where its jobs run",
            "start a new sweep to change something",
        )
    else:
        planned = launch.take_up(resume, given)
    if isinstance(planned, launch.PlannedSearch):
        if not run_search(planned):
            raise typer.Exit(1)
        return
    note(f"{counted(len(planned.jobs), 'job')} in {planned.directory}")
    results = launch.sweep(LoadedLater(planned.task), planned)

    from mari_cli.cli import tables
    from mari_cli.tasks.compare import compare as compare_runs

    tables.print_grid(tables.of_sweep(planned.jobs, results))
    for told in (tables.nearest_to_gold, forgot_nothing):
        if said := told(planned.jobs, results):
            typer.echo(f"\n{said}")
    done = []
    for job, result in zip(planned.jobs, results, strict=True):
        if isinstance(result, launch.Failed):
            note(f"job {job.number + 1} of {len(planned.jobs)} ({job.label}) failed: {result.reason}")
        else:
            done.append(Path(job.config.out))
    if done:
        report = planned.directory / "report.html"
        report.unlink(missing_ok=True)  # the report that the sweep wrote before it was cut off
        show_comparison(compare_runs(done, report))
        typer.echo(report)
    if len(done) < len(results):
        raise typer.Exit(1)


@app.command(
    epilog=epilog("mari compare runs/mari runs/npo", "mari compare sweeps/first runs/gold --out first.html")
)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Runs; a sweep stands for its jobs.", show_default=False),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The report to write.")] = None,
) -> None:
    """Put finished runs side by side: a table here, plots in an HTML file.

    Without `--out` the file is compare.html, or the next free name, as compare-2.html."""
    from mari_cli.storage.room_on_disk import free_name
    from mari_cli.storage.run_list import run_directories

    for run in runs:  # a folder that is none is refused before the statistics are loaded
        run_directories(run)
    from mari_cli.cli import tables
    from mari_cli.tasks.compare import compare as compare_runs

    out = out or free_name(Path("compare.html"))
    found = compare_runs(runs, out)
    tables.print_grid(tables.of_results(found.results))
    show_comparison(found)
    typer.echo(out)


@app.command(
    epilog=epilog(
        "mari metrics",
        "mari metrics truth_ratio",
        "mari metrics forget/extraction_strength",
        "mari metrics statistics              intervals, differences, seeds",
        "mari metrics what_it_proves          for whoever answers for the data",
    )
)
def metrics(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A metric, by its full name or by its page's; else all are listed.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List what is measured, or print how one metric is defined, read and varied elsewhere."""
    from mari_cli.cli import tables
    from mari_cli.docs import pages
    from mari_cli.suites.registry import METRICS

    if name is None:
        tables.print_grid(tables.of_metrics(METRICS.values()))
        return
    text = pages.find(name).text
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)


app.command(epilog=evidence.OF_AUDIT)(evidence.audit)
app.command(epilog=evidence.OF_VERIFY)(evidence.verify)
app.command(epilog=evidence.OF_REQUESTS)(evidence.requests)
app.command(epilog=people.OF_ASK)(people.ask)
app.command(epilog=people.OF_PUSH)(people.push)


@config_app.command(
    "show",
    epilog=epilog(
        "mari config show",
        "mari config show loss=npo forget=tofu",
        "mari config show --task finetune > finetune.yaml",
        "mari config show -c experiments/demo/run.yaml",
        keys=True,
    ),
)
def config_show(
    overrides: Overrides = None,
    config: ConfigFile = None,
    task: Annotated[
        TaskName, typer.Option(help="The command whose configuration is meant.")
    ] = TaskName.unlearn,
) -> None:
    """Print the whole configuration as YAML, as a run would take it."""
    from mari_cli import launch

    shown = launch.show(launch.Experiment(str(task), overrides or [], config))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax(shown, "yaml", background_color="default"))
    else:
        typer.echo(shown, nl=False)


@config_app.command("list", epilog=epilog("mari config list", "mari config list loss"))
def config_list(
    group: Annotated[str | None, typer.Argument(help="Only this group.", show_default=False)] = None,
) -> None:
    """Name what can be chosen, as GROUP=OPTION."""
    from mari_cli import launch
    from mari_cli.cli import tables

    tables.print_grid(tables.of_options(launch.options(group)))


@runs_app.command("list", epilog=epilog("mari runs list", "mari runs list sweeps/first"))
def runs_list(roots: Folders = None) -> None:
    """List runs, finished or not, oldest first."""
    from mari_cli.cli import tables
    from mari_cli.storage.run_list import list_runs

    found = [run for root in folders_of_runs(roots) for run in list_runs(root)]
    if not found:
        note("no runs")
        return
    tables.print_grid(tables.of_runs(sorted(found, key=lambda run: run.created)))


def main() -> None:
    app(prog_name="mari")
