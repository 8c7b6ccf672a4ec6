"""The report: one HTML page that needs nothing but itself.

Jinja2 escapes every value; only the figures, whose text matplotlib escapes, go in as they are.
"""

import re
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from mari_cli.errors import UserError, counted, reason_of
from mari_cli.metrics.corpora import GROUPS, suite_of
from mari_cli.metrics.estimate import OverSeeds
from mari_cli.metrics.metric import Metric
from mari_cli.report.card import robustness_card
from mari_cli.report.comparison import (
    ComparisonRow,
    comparison_rows,
    group_labels,
    metric_names,
    metric_of,
    not_separable,
    reading_order,
    results,
)
from mari_cli.report.definitions import STATISTICS, WHAT_IT_PROVES, anchor_of, definitions
from mari_cli.report.format import interval, listed, number, percent
from mari_cli.report.items import item_tables
from mari_cli.report.narrative import READS, confidence, estimate_words, summarise
from mari_cli.report.plots import FIGURES
from mari_cli.report.plots.pareto import pareto
from mari_cli.report.plots.style import colour_of
from mari_cli.report.read import RunData
from mari_cli.report.request_matrix import OPEN, request_matrix
from mari_cli.report.search import COLUMNS, Search, trial_rows
from mari_cli.storage import atomic
from mari_cli.suites.registry import headlines

ARROWS = {"up": "↑", "down": "↓", "gold": "◆"}
ARROW_WORDS = {"up": "higher is better", "down": "lower is better", "gold": "best at gold's value"}
SCOPES = {"step": "whole step", "micro": "micro-batch"}
"""`loss.pooling_scope`, in words."""


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
    anchor: str | None
    """Where on the page it is defined."""
    n: str
    """Items it is of; of several models, each number that there is."""


LineGroup = tuple[str, list[Line]]
"""A heading inside a table, and what stands under it."""


def render(runs: list[RunData], *, title: str, search: Search | None = None) -> str:
    """One run as before / unlearned / gold, several as a comparison; the same runs give the same bytes.

    ``search``: what they are the result of."""
    assert runs
    rows = comparison_rows(runs)
    made = results(rows)
    figures = {name: figure for name, draw in FIGURES.items() if (figure := draw(runs))}
    if search and (drawn := pareto(search)):
        figures["pareto"] = drawn
    level = confidence(runs)
    single = len(made) == 1
    card = robustness_card(runs)
    summary = summarise(runs)
    if card:
        summary = replace(summary, headline=runs[0].notes[0], claims=[])
    columns = reading_order(rows) if single else rows
    on_card = "audit/" if card else None
    names = [name for name in metric_names(rows) if not (on_card and name.startswith(on_card))]
    labelled = list(zip(group_labels([(run,) for run in runs]), runs, strict=True))
    suites = list(dict.fromkeys(suite for name in names if (suite := suite_of(name))))
    page = _template().render(
        title=title,
        facts=_facts(runs),
        summary=summary,
        card=card,
        matrix=request_matrix(runs),
        open_tables=OPEN,
        search=search and (search, trial_rows(search), COLUMNS),
        figures={name: (Markup(figure.svg), figure) for name, figure in figures.items()},
        single=single,
        confidence=level,
        columns=[(row, colour_of(row, rows)) for row in columns],
        groups=_groups([name for name in names if not suite_of(name)], columns),
        suites=[(suite, _suite_groups(suite, names, columns)) for suite in suites],
        has_gold=any(row.role == "gold" for row in rows),
        has_target=any(row.role == "target" for row in rows),
        overview=_overview(rows) if not single else None,
        separable=not_separable(rows, confidence=level),
        missing=_missing(runs, rows),
        seeds=[(row, _of_seeds(row, names)) for row in rows if row.seeds],
        items=item_tables(made[0]) if single else [],
        trainings=[(label, run, _training(run), _steps(run)) for label, run in labelled if run.training],
        examples=_examples(runs),
        runs=[
            (label, run, shlex.join(run.command), _data(run), _flat(run.environment))
            for label, run in labelled
        ],
        glossary=_glossary(names),
        anchors={name: anchor_of(name) for name in names},
        definitions=definitions(names),
        statistics=STATISTICS,
        proof=WHAT_IT_PROVES,
        counted=counted,
        arrows=ARROWS,
        arrow_words=ARROW_WORDS,
    )
    return re.sub(r"\n\s*\n+", "\n", page)


@cache
def _template() -> Template:
    """The page's template, compiled once in a process: a sweep writes a page for each run."""
    environment = Environment(  # autoescape: corpora and names are untrusted
        loader=PackageLoader("mari_cli.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    return environment.get_template("page.html.j2")


def write_report(path: Path, html: str) -> None:
    """Write all of it or nothing."""
    try:
        atomic.atomic_write_text(path, html)
    except OSError as error:
        raise UserError(
            f"cannot write `{path}`: {reason_of(error)}", "choose another file for the report"
        ) from error


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


def _facts(runs: list[RunData]) -> list[str]:
    """The line under the title."""
    [first, *others] = runs
    facts = []
    models = {str(name) for run in runs if (name := run.setting("model.name") or run.setting("model.path"))}
    if len(models) == 1:
        facts.append(f"model {models.pop()}")
    asked = {_corpus_or_suite(run) for run in runs} - {""}
    if len(asked) == 1:
        facts.append(asked.pop())
    facts.append(f"{len(runs)} runs" if others else f"{first.task}: {first.name}")
    seeds = {seed for run in runs if (seed := run.setting("seed")) is not None}
    if seeds:
        facts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}")
    created = sorted(_when(run.created) for run in runs if run.created)
    if created:
        facts.append(created[0] if created[0] == created[-1] else f"{created[0]} to {created[-1]}")
    return facts


def _corpus_or_suite(run: RunData) -> str:
    """The corpus of a run, or the suite that was asked in its place; nothing for an evaluation's log."""
    if run.setting("from_log"):
        return ""
    asks = run.setting("suite.kind") or run.setting("suite.protocol")  # the key's name in earlier versions
    if run.task == "evaluate" and asks not in (None, "corpora"):
        return f"suite {run.setting('suite.name')}"
    return f"corpus {name}" if (name := run.setting("forget.name")) else ""


def _cell(row: ComparisonRow, name: str) -> Cell:
    estimate = row.estimate(name)
    if estimate is None:
        return Cell()
    distance, metric = row.distance(name), metric_of(name)
    by_gold = metric.direction == "gold" or metric.is_test
    reading = row.standing(name) if by_gold else row.change(name)
    return Cell(
        value=number(estimate.value),
        interval=interval(estimate.low, estimate.high),
        title=estimate_words(estimate),
        distance="" if distance is None else number(distance, signed=True),
        reading=str(reading) if reading and row.role != "target" else "",
        tone=READS[reading][1] if reading and row.role != "target" else "",
    )


def _line(name: str, label: str, columns: list[ComparisonRow]) -> Line:
    metric = metric_of(name)
    return Line(
        label=label,
        metric=metric,
        arrow=ARROWS[metric.direction],
        cells=[_cell(row, name) for row in columns],
        anchor=anchor_of(name),
        n=_items(name, columns),
    )


def _groups(names: list[str], columns: list[ComparisonRow]) -> list[LineGroup]:
    groups: dict[str, list[Line]] = {group: [] for group in GROUPS}
    for name in names:
        group = name.split("/")[0]
        groups[group].append(_line(name, metric_of(name).label.removeprefix(f"{group} "), columns))
    return [(GROUPS[group], lines) for group, lines in groups.items() if lines]


def _suite_groups(suite: str, names: list[str], columns: list[ComparisonRow]) -> list[LineGroup]:
    """What a suite says of all its sets, then set by set."""
    groups: dict[str, list[Line]] = {"over all sets": []}
    for name in names:
        if suite_of(name) == suite:
            set = name.removeprefix(f"{suite}/").rpartition("/")[0] or "over all sets"
            groups.setdefault(set, []).append(_line(name, metric_of(name).label, columns))
    return [(set, lines) for set, lines in groups.items() if lines]


def _items(name: str, rows: list[ComparisonRow]) -> str:
    return "/".join(dict.fromkeys(str(found.n) for row in rows if (found := row.estimate(name))))


def _of_seeds(row: ComparisonRow, names: list[str]) -> list[tuple[str, list[str]]]:
    """(label, value of each seed) of every metric that all of them have."""
    estimates = [(metric_of(name).label, row.estimate(name)) for name in names]
    return [
        (label, [number(value) for value in estimate.values.values()])
        for label, estimate in estimates
        if isinstance(estimate, OverSeeds)
    ]


def _overview(
    rows: list[ComparisonRow],
) -> tuple[list[tuple[Metric, str]], list[tuple[ComparisonRow, str, list[Cell]]]]:
    names = [name for name in headlines("overview") if any(row.estimate(name) for row in rows)]
    return (
        [(metric_of(name), _items(name, rows)) for name in names],
        [(row, colour_of(row, rows), [_cell(row, name) for name in names]) for row in rows],
    )


def _missing(runs: list[RunData], rows: list[ComparisonRow]) -> list[str]:
    """What a reader might look for and will not find, with what it would have told."""
    names, roles = metric_names(rows), {row.role for row in rows}
    groups = {name.partition("/")[0] for name in names}
    corpora = bool(groups & {"forget", "retain"})  # else only a suite was asked
    told = any("recalled" in item.values for run in runs for item in run.items) or any(
        "rouge" in name or "over items of the ROUGE" in metric_of(name).description for name in names
    )
    absent = {
        "a gold model (how forgotten is forgotten)": "unlearned" in roles and "gold" not in roles,
        "a holdout corpus (membership inference)": not (
            groups & {"holdout", "privacy"} or any(name.endswith("_auc") for name in names)
        ),
        "marked facts (unique and shared recall)": corpora and "facts" not in groups,
        "generated answers (ROUGE-L)": not told,
        "marginal information (Fano bound)": corpora and "marginal" not in groups,
        "a benchmark (general ability: `metrics.benchmarks`)": "benchmark" not in groups,
        "examples of answers": not any(run.examples for run in runs),
    }
    return [words for words, is_absent in absent.items() if is_absent]


def _data(run: RunData) -> list[tuple[str, str, str, str]]:
    """(corpus, records, hash, the rest) of all that a run was asked."""
    rows = []
    for corpus, fields in run.data.items():
        count = fields.get("records", fields.get("items"))
        more = {key: value for key, value in fields.items() if key not in ("records", "sha256")}
        if "records" not in fields:
            more.pop("items", None)
        rest = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in more.items())
        rows.append((corpus, "–" if count is None else str(count), str(fields.get("sha256", "")), rest))
    return rows


def _training(run: RunData) -> str:
    """How it stopped and what was kept, as one sentence."""
    training = run.training
    assert training
    planned, steps = run.setting("train.steps"), counted(training.steps, "step")
    if training.stopped_by:
        ended = f"stopped after {steps}: {training.stopped_by}"
    elif planned in (None, training.steps):
        ended = f"ran all {steps}; no stop rule ended it"
    else:
        ended = f"ran {training.steps} of {planned} steps; no stop rule ended it"
    if training.kept_step is None:
        return f"{ended}."
    last = ", the last one" if training.kept_step == training.steps else ""
    why = run.setting("train.keep")
    choice = "" if why is None else f" (`train.keep={why}`{last})"
    return f"{ended}. Kept: step {training.kept_step}{choice}."


def _steps(run: RunData) -> str:
    """How its steps were taken, and how fast."""
    training = run.training
    assert training
    how = []
    if training.layout:
        how.append(f"sequences {training.layout}")
    if scope := training.pooling_scope:
        how.append(f"predictions pooled over the {SCOPES.get(scope, scope)}")
    if training.micro_batch:
        how.append(f"{counted(training.micro_batch, 'sequence')} of each corpus at a time")
    if training.chunk:
        how.append(f"logits of {training.chunk:,} positions at a time")
    if training.keep_logits:
        how.append("logits of a pool held")
    if training.gradient_checkpointing:
        how.append("activations made twice (checkpointing)")
    if training.kernels:
        how.append(f"kernels {training.kernels}")
    took = []
    if (speed := _median(run, "tokens_per_second")) is not None:
        took.append(f"{speed:,.0f} tokens a second")
    if (share := _median(run, "mfu")) is not None:
        took.append(f"{percent(share)} of the device's peak (MFU)")
    if (peak := _median(run, "peak_bytes")) is not None:
        took.append(f"{peak / 2**30:.1f} GiB at the peak")
    sentences = [f"A step: {'; '.join(how)}."] if how else []
    sentences += [f"Median of its steps: {listed(took)}."] if took else []
    return " ".join(sentences)


def _median(run: RunData, name: str) -> float | None:
    values = [row[name] for row in run.train_rows if name in row]
    return statistics.median(values) if values else None


def _examples(runs: list[RunData]) -> list[tuple[str | None, str, list[tuple[str, str, str]]]]:
    """(prompt, true answer, [(label, colour, what it said)]): all runs' answers to a question together."""
    rows = comparison_rows(runs)
    found: dict[tuple[str | None, str], list[tuple[str, str, str]]] = {}
    for row in reading_order(rows):
        for example in row.run.examples:
            if (output := example.get(row.role)) is not None:
                said = (row.label, colour_of(row, rows), output)
                found.setdefault((example.get("prompt"), example["answer"]), []).append(said)
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
            words = ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)
            flat.append((f"{prefix}{key}", "–" if entry is None else words))
    return flat
