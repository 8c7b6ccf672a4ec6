"""`mari evaluate --from-log`: TOFU's numbers from evaluations that others have run, each as a run of its own.

No model is loaded; what stands for the hash of its weights is that of the values in its log. Several logs are
as many runs in one folder, with one table.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mari_cli.begun import Inputs, versions
from mari_cli.config import EvaluateRun, TofuSuite
from mari_cli.errors import UserError, counted
from mari_cli.metrics.items import item_values
from mari_cli.metrics.statistics import How
from mari_cli.options import RunOptions
from mari_cli.places import place
from mari_cli.progress import say, track
from mari_cli.report.page import render, write_report
from mari_cli.report.read import read_runs
from mari_cli.storage import hashing, json_files
from mari_cli.storage.environment import describe_environment
from mari_cli.storage.run import refuse_existing
from mari_cli.storage.signature import check_key
from mari_cli.suites.log_columns import Log
from mari_cli.suites.measured import Measured
from mari_cli.suites.open_unlearning_summary import (
    OpenUnlearningSummary,
    lacking,
    read_summary,
    summary_scores,
)
from mari_cli.suites.tofu_data import read_questions
from mari_cli.suites.tofu_logs import (
    NoLog,
    Place,
    QuestionSets,
    names_of,
    places,
    read_log,
    require_same_items,
    unlike_tofu,
)
from mari_cli.suites.tofu_metrics import OPEN_UNLEARNING
from mari_cli.suites.tofu_numbers import summarise
from mari_cli.suites.tofu_overall import overall_estimates
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.record import begin_record, open_run
from mari_cli.tracking import check_tracker

TABLE = "results.json"
"""Of several logs, beside their runs."""
MOST_IN_A_REPORT = 20
"""Logs that are compared in pairs, which takes as many tests as there are pairs."""


def evaluate_log(config: EvaluateRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json; of several logs results.json). A log that cannot be read is
    refused before anything is written; of those that a folder holds it is left out, and that is said."""
    if not options.resume:
        refuse_existing(Path(config.out))
    check_tracker(config.tracker)
    if config.request.key:
        check_key(config.request.key)
    suite = _data(config)
    found = places([config.from_log] if isinstance(config.from_log, str) else config.from_log)
    others = {"gold": config.gold_log} if config.gold_log else {}
    others |= {"target": config.target_log} if config.target_log else {}
    if suite is None and len(found) == 1:
        paths = {"model": str(found[0].path), **others}
        if summaries := _summaries(paths):
            return _from_summaries(config, paths, summaries, options)
    data = _Data(read_questions(suite), suite.path) if suite else None
    beside: dict[str, _Told] = {}
    for role, path in others.items():
        beside[role] = _tell(config, role, path, data, beside)
    if len(found) == 1:
        told = {"model": _tell(config, "model", str(found[0].path), data, beside), **beside}
        return _record(config, told, _notes_of(told), options, data=data)
    return _several(config, found, data, beside, options)


@dataclass(frozen=True)
class _Data:
    """TOFU's questions, where a log is to be compared with them, and where they are from."""

    questions: QuestionSets
    path: str


@dataclass(frozen=True)
class _Told:
    """A log, what it says of its model, and what is to be said of it."""

    path: str
    log: Log
    """Empty, where it is a summary of an evaluation."""
    model: Examined
    notes: list[str]


def _tell(
    config: EvaluateRun, role: str, path: str, data: _Data | None, beside: Mapping[str, _Told]
) -> _Told:
    """Of the log at ``path``, ``beside`` those of gold and target, as far as they are read already."""
    log = read_log(place(path))
    if data:
        require_same_items(log, path, data.questions, data.path)
    logs = {other: its.log for other, its in beside.items()} | {role: log}
    how = How(config.metrics.bootstrap, config.metrics.confidence, config.seed)
    summary = summarise(log.rows, logs["gold"].rows if "gold" in logs else None, how)
    metrics = summary.metrics
    if f"tofu/forget/extraction_strength{OPEN_UNLEARNING}" in metrics:  # which TOFU's own logs lack
        items = {
            other: [item_values({"model": other, "suite": "tofu"} | row) for row in its.rows]
            for other, its in logs.items()
        }
        metrics = metrics | overall_estimates(
            items[role], items.get("gold"), items.get("target"), how, form=OPEN_UNLEARNING
        )
    unlike = [] if data else unlike_tofu(log)
    left_out = tuple(note.partition(":")[0] for note in log.notes if "are left out: " in note)
    of_rest = [note for note in summary.notes if not note.startswith(left_out)]  # said once
    notes = [*log.notes, *unlike, *of_rest, *log.disagreements(summary.metrics)]
    rows = [{"suite": "tofu"} | row for row in log.rows]
    return _Told(path, log, Examined(Measured(metrics, [], []), rows, hashing.content_hash(log.rows)), notes)


def _notes_of(told: Mapping[str, _Told]) -> list[str]:
    """The notes on all logs, each once, with the role of its model."""
    return list(dict.fromkeys(f"{role}: {note}" for role, its in told.items() for note in its.notes))


def _summaries(paths: Mapping[str, str]) -> dict[str, OpenUnlearningSummary] | None:
    """By role, where the model's log is a summary that tells a part of the overall score."""
    found = {role: read_summary(place(path)) for role, path in paths.items()}
    summaries = {role: summary for role, summary in found.items() if summary is not None}
    own = summaries.get("model")
    if own is None or not summary_scores(own, paths["model"], summaries.get("gold"), summaries.get("target")):
        return None
    for role, path in paths.items():
        if role not in summaries:
            raise UserError(
                f"`{paths['model']}` is a summary of an evaluation, and `{path}` is none",
                "give summaries of all models, or logs of all",
            )
    return summaries


def _from_summaries(
    config: EvaluateRun,
    paths: Mapping[str, str],
    summaries: Mapping[str, OpenUnlearningSummary],
    options: RunOptions,
) -> dict[str, Any]:
    gold, target = summaries.get("gold"), summaries.get("target")
    told = {}
    for role, summary in summaries.items():
        measured = Measured(summary_scores(summary, paths[role], gold, target), [], [])
        model = Examined(measured, [], hashing.content_hash(summary))
        told[role] = _Told(paths[role], Log(), model, [])
    notes = ["the numbers of a summary are means alone: there is no interval, and n = 0 stands for unknown"]
    return _record(config, told, notes + lacking(summaries), options)


def _record(
    config: EvaluateRun,
    told: Mapping[str, _Told],
    notes: Sequence[str],
    options: RunOptions,
    *,
    data: _Data | None = None,
    quiet: bool = False,
    name: str | None = None,
) -> dict[str, Any]:
    """``name``: what the log is called, where it is no label: a path."""
    models = {role: its.model for role, its in told.items()}
    described = {
        role: {"path": its.path, "records": len(its.model.asked), "sha256": its.model.weights}
        for role, its in told.items()
    }
    environment = describe_environment() | {"processes": 1}
    inputs = Inputs({f"the log {its.path}": hashing.path_hash(place(its.path)) for its in told.values()})
    if data is not None:
        of_data = hashing.content_hash(repr(data.questions))
        inputs.contents[f"the data of the suite {config.suite.name}"] = of_data
    inputs.values.update(versions(config))
    with (
        open_run(config, options, inputs) as run,
        begin_record(run, config, environment=environment, data=described, quiet=quiet) as record,
    ):
        return record.finish(name=name or config.model.name, models=models, notes=notes)


def _several(
    config: EvaluateRun,
    found: Sequence[Place],
    data: _Data | None,
    beside: Mapping[str, _Told],
    options: RunOptions,
) -> dict[str, Any]:
    """A run for each log, and results.json and report.html over all."""
    told: list[_Told] = []
    left_out: dict[str, str] = {}
    others = []
    for one in track(found, "logs", len(found)):
        try:
            told.append(_tell(config, "model", str(one.path), data, beside))
        except NoLog:
            if one.named:
                raise
            others.append(one.path)
        except UserError as error:
            if one.named:
                raise
            left_out[str(one.path)] = str(error)
    if not told:
        first = next(iter(left_out.values()), f"none of {counted(len(others), 'JSON file')} is a log of TOFU")
        raise UserError(
            f"there is no log that can be read: {first}",
            "give `TOFU_EVAL.json` or `eval_log_aggregated.json`",
        )
    notes = [f"`{path}` is left out: {reason}" for path, reason in left_out.items()]
    if others:
        notes.append(f"passed over, as no logs of TOFU: {', '.join(f'`{path}`' for path in others)}")
    out = Path(config.out)
    say(f"runs: {out}")
    names = names_of([Path(its.path) for its in told])
    listed = []
    for number, (its, name) in enumerate(zip(told, names, strict=True)):
        folder = f"{number}_{re.sub(r'[^A-Za-z0-9_.=+-]+', '-', name)[-100:]}"  # what a path can hold
        model = replace(config.model, name=name.replace("/", " "))
        run = replace(config, from_log=its.path, out=str(out / folder), model=model)
        of_run, begun = {"model": its, **beside}, replace(options, resume=False)
        result = _record(run, of_run, _notes_of(of_run), begun, data=data, quiet=True, name=name)
        listed.append({"name": name, "log": its.path, "run": run.out, "result": result})
    notes += _together([its.notes for its in told])
    notes += [f"{role}: {note}" for role, its in beside.items() for note in its.notes]
    if len(listed) <= MOST_IN_A_REPORT:
        report = render(read_runs([out]), title=f"{counted(len(listed), 'log')} compared")
        write_report(out / "report.html", report)
    else:
        notes.append(
            f"there is no report over {len(listed)} logs, more than {MOST_IN_A_REPORT}: each has its own, "
            "and `mari compare` makes one of a few"
        )
    for note in notes:
        say(f"note: {note}")
    table = {"schema_version": 1, "task": "evaluate", "logs": listed, "left_out": left_out, "notes": notes}
    json_files.atomic_write_json(out / TABLE, table)
    return table


def _together(notes: Sequence[Sequence[str]]) -> list[str]:
    """The notes of several logs, each once, with the number of logs that it is of."""
    counts = Counter(note for of_log in notes for note in of_log)
    return [
        note if count == len(notes) else f"{count} of {len(notes)} logs: {note}"
        for note, count in counts.items()
    ]


def _data(config: EvaluateRun) -> TofuSuite | None:
    """TOFU's data, where it is named for comparing; without a holdout, of which TOFU's logs know nothing."""
    if config.suite.kind == "corpora":
        return None
    if not isinstance(config.suite, TofuSuite):
        raise UserError(
            f"`from_log` is about TOFU's logs, and `suite={config.suite.name}` is not TOFU",
            "`suite=tofu suite.path=DIR` compares the logs with their data; without `suite` they are taken "
            "as they are",
        )
    return replace(config.suite, holdout=None)
