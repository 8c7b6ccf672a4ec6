"""The report: one HTML page that needs nothing but itself.

Jinja2 escapes every value; only the figures, whose text matplotlib escapes, go in as they are.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mari_cli import runs as runs_on_disk
from mari_cli.metrics.registry import Metric
from mari_cli.report import numbers
from mari_cli.report.comparison import (
    Change,
    Row,
    Standing,
    comparison_rows,
    metric_names,
    metric_of,
    not_separable,
    results,
    run_labels,
)
from mari_cli.report.plots import FIGURES, colour_of
from mari_cli.report.read import RunData
from mari_cli.report.words import confidence, estimate_words, summarise

ARROWS = {"up": "↑", "down": "↓", "gold": "◆"}
ARROW_WORDS = {"up": "higher is better", "down": "lower is better", "gold": "best at gold's value"}
OVERVIEW = (
    "forget/answer_nll",
    "forget/token_accuracy",
    "forget/exact_match",
    "facts/unique_recall",
    "privacy/loss_auc",
    "facts/shared_recall",
    "retain/token_accuracy",
    "retain/exact_match",
    "holdout/answer_nll",
    "benchmark/mmlu",
)
"""Columns of the table of several runs."""
_GROUPS = {
    "forget": "Forget data",
    "facts": "Facts about the forgotten",
    "privacy": "Membership inference, forget against holdout",
    "retain": "Retain data",
    "holdout": "Holdout: data no model saw",
    "marginal": "Marginal information",
    "benchmark": "General ability",
    "muse": "MUSE",
    "rwku": "RWKU",
}
_TONES = {
    Standing.at: "good",
    Standing.short: "short",
    Standing.away: "short",
    Standing.past: "past",
    Standing.off: "past",
    Change.kept: "good",
    Change.better: "good",
    Change.worse: "past",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of one model as it is printed; ``tone`` picks the colour of its reading."""

    value: str = "–"
    interval: str = ""
    title: str = "not measured"
    distance: str = ""
    reading: str = ""
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric in the table: its cells in the order of the models."""

    label: str
    metric: Metric
    arrow: str
    cells: list[Cell]


def render(runs: list[RunData], *, title: str) -> str:
    """One run as before / unlearned / gold, several as a comparison; the same runs give the same bytes."""
    assert runs
    rows = comparison_rows(runs)
    made = results(rows)
    environment = Environment(  # autoescape: corpora and names are untrusted
        loader=PackageLoader("mari_cli.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    figures = {name: figure for name, draw in FIGURES.items() if (figure := draw(runs))}
    level = confidence(runs)
    single = len(made) == 1
    columns = _single_order(rows) if single else rows
    names = metric_names(rows)
    page = environment.get_template("page.html.j2").render(
        title=title,
        facts=_facts(runs),
        summary=summarise(runs),
        figures={name: (Markup(figure.svg), figure) for name, figure in figures.items()},
        single=single,
        confidence=level,
        columns=[(row, colour_of(row, rows)) for row in columns],
        groups=_groups(names, columns),
        has_gold=any(row.role == "gold" for row in rows),
        has_target=any(row.role == "target" for row in rows),
        overview=_overview(rows) if not single else None,
        separable=not_separable(rows, confidence=level),
        missing=_missing(runs, rows),
        trainings=[
            (label, run, _training(run))
            for label, run in zip(run_labels(runs), runs, strict=True)
            if run.training
        ],
        examples=_examples(runs),
        runs=[
            (label, run, shlex.join(run.command), _flat(run.environment))
            for label, run in zip(run_labels(runs), runs, strict=True)
        ],
        glossary=_glossary(names),
        arrows=ARROWS,
        arrow_words=ARROW_WORDS,
    )
    return re.sub(r"\n\s*\n+", "\n", page)


def write_report(path: Path, html: str) -> None:
    """Write all of it or nothing."""
    runs_on_disk.atomic_write_text(path, html)


def _code(text: str) -> Markup:
    """Literals in backticks, as our messages write them, set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _when(created: str) -> str:
    """An ISO time to the minute; whatever else it is, as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d %H:%M}" + ("" if moment.tzinfo is None else f" {moment.tzname()}")


def _single_order(rows: list[Row]) -> list[Row]:
    """Before, after, gold: the order in which one run is read."""
    order = {"target": 0, "model": 1, "unlearned": 1, "gold": 2}
    return sorted(rows, key=lambda row: order[row.role])


def _facts(runs: list[RunData]) -> list[str]:
    """The line under the title."""
    [first, *others] = runs
    facts = []
    models = {str(name) for run in runs if (name := run.setting("model.name") or run.setting("model.path"))}
    if len(models) == 1:
        facts.append(f"model {models.pop()}")
    corpora = {str(name) for run in runs if (name := run.setting("forget.name"))}
    if len(corpora) == 1:
        facts.append(f"corpus {corpora.pop()}")
    facts.append(f"{len(runs)} runs" if others else f"{first.task}: {first.name}")
    seeds = {seed for run in runs if (seed := run.setting("seed")) is not None}
    if seeds:
        facts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}")
    created = sorted(_when(run.created) for run in runs if run.created)
    if created:
        facts.append(created[0] if created[0] == created[-1] else f"{created[0]} to {created[-1]}")
    return facts


def _cell(row: Row, name: str) -> Cell:
    estimate = row.estimate(name)
    if estimate is None:
        return Cell()
    distance, direction = row.distance(name), metric_of(name).direction
    reading = row.standing(name) if direction == "gold" else row.change(name)
    return Cell(
        value=numbers.number(estimate.value),
        interval=numbers.interval(estimate.low, estimate.high),
        title=estimate_words(estimate),
        distance="" if distance is None else numbers.number(distance, signed=True),
        reading=str(reading) if reading and row.role != "target" else "",
        tone=_TONES[reading] if reading and row.role != "target" else "",
    )


def _groups(names: list[str], columns: list[Row]) -> list[tuple[str, list[Line]]]:
    prefixes = sorted({name.split("/")[0] for name in names}, key=lambda p: [*_GROUPS, p].index(p))
    return [
        (
            _GROUPS.get(prefix, prefix),
            [
                Line(
                    label=metric_of(name).label.removeprefix(f"{prefix} "),
                    metric=metric_of(name),
                    arrow=ARROWS[metric_of(name).direction],
                    cells=[_cell(row, name) for row in columns],
                )
                for name in names
                if name.split("/")[0] == prefix
            ],
        )
        for prefix in prefixes
    ]


def _overview(rows: list[Row]) -> tuple[list[Metric], list[tuple[Row, str, list[Cell]]]]:
    names = [name for name in OVERVIEW if any(row.estimate(name) for row in rows)]
    return (
        [metric_of(name) for name in names],
        [(row, colour_of(row, rows), [_cell(row, name) for name in names]) for row in rows],
    )


def _missing(runs: list[RunData], rows: list[Row]) -> list[str]:
    """What a reader might look for and will not find, with what it would have told."""
    names = set(metric_names(rows))
    unlearned = any(row.role == "unlearned" for row in rows)
    return [
        words
        for absent, words in (
            (
                unlearned and not any(row.role == "gold" for row in rows),
                "a gold model (how forgotten is forgotten)",
            ),
            (
                not any(name.startswith(("holdout/", "privacy/")) for name in names),
                "a holdout corpus (membership inference)",
            ),
            (not any(name.startswith("facts/") for name in names), "marked facts (unique and shared recall)"),
            (not any(name.endswith("verbatim_rouge_l") for name in names), "generated answers (ROUGE-L)"),
            (not any(name.startswith("marginal/") for name in names), "marginal information (Fano bound)"),
            ("benchmark/mmlu" not in names, "MMLU (general ability)"),
            (not any(run.examples for run in runs), "examples of answers"),
        )
        if absent
    ]


def _training(run: RunData) -> str:
    """How it stopped and what was kept, as one sentence."""
    training = run.training
    assert training
    planned = run.setting("train.steps")
    if training.stopped_by:
        ended = f"stopped after {training.steps} steps: {training.stopped_by}"
    else:
        all_of = (
            f"all {training.steps}" if planned in (None, training.steps) else f"{training.steps} of {planned}"
        )
        ended = f"ran {all_of} steps; no stop rule ended it"
    kept = "" if training.kept_step is None else f". Kept: step {training.kept_step}"
    last = training.kept_step == training.steps
    why = run.setting("train.keep")
    choice = (
        ""
        if training.kept_step is None or why is None
        else f" (`train.keep={why}`{', the last one' if last else ''})"
    )
    return f"{ended}{kept}{choice}."


def _examples(runs: list[RunData]) -> list[tuple[str | None, str, list[tuple[str, str, str]]]]:
    """(prompt, true answer, [(label, colour, what it said)]): all runs' answers to a question together."""
    rows = comparison_rows(runs)
    found: dict[tuple[str | None, str], list[tuple[str, str, str]]] = {}
    for row in _single_order(rows):
        for example in row.run.examples:
            if row.role in example.outputs:
                said = (row.label, colour_of(row, rows), example.outputs[row.role])
                found.setdefault((example.prompt, example.answer), []).append(said)
    return [(prompt, answer, outputs) for (prompt, answer), outputs in found.items()]


def _glossary(names: list[str]) -> list[tuple[str, Metric, list[tuple[str, str]]]]:
    """(label, metric, [(set, direction)]): a metric that several sets of items have is explained once."""
    found: dict[tuple[str, str], list[Metric]] = {}
    for metric in map(metric_of, names):
        label = metric.label.removeprefix(f"{metric.name.split('/')[0]} ")
        found.setdefault((label, metric.description), []).append(metric)
    return [
        (
            label,
            metrics[0],
            [(metric.name.split("/")[0] if len(metrics) > 1 else "", metric.direction) for metric in metrics],
        )
        for (label, _), metrics in found.items()
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested fields as dotted names."""
    flat: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat += _flat(entry, f"{prefix}{key}.")
        else:
            words = (
                ", ".join(map(str, entry))
                if isinstance(entry, list)
                else "–"
                if entry is None
                else str(entry)
            )
            flat.append((f"{prefix}{key}", words))
    return flat
