"""The report's figures: each a pure function of runs to one inline SVG.

Text stays text and colours become CSS variables, so a figure takes the page's fonts and follows its light or
dark scheme. The same input gives the same bytes: no dates, no random ids, no random jitter.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from sklearn.metrics import roc_curve

from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.forget_quality import ks_test
from mari_cli.metrics.items import ItemValues
from mari_cli.metrics.of_benchmarks import GENERAL_ABILITY
from mari_cli.metrics.registry import describe
from mari_cli.report.comparison import Row, comparison_rows, metric_of, results
from mari_cli.report.numbers import number
from mari_cli.report.read import RunData

RUN_COLOURS = 8
"""Colours before they repeat."""
MOST_PANELS = 6
MOST_POINTS = 400
"""Per-item marks of one kind in one panel; what is left out is said in the caption."""

_COLOURS = {
    "ink": "#010201",
    "muted": "#010202",
    "rule": "#010203",
    "paper": "#010204",
    "before": "#010205",
    "gold": "#010206",
    "unseen": "#010207",
    **{f"run{i}": f"#0102{0x10 + i:02x}" for i in range(RUN_COLOURS)},
}
"""CSS variable of the page -> the stand-in for it while matplotlib draws, a colour for nothing else."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mari",
    "text.parse_math": False,  # names are the user's: `$` is a dollar
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": _COLOURS["rule"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.titlecolor": _COLOURS["ink"],
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["rule"],
    "ytick.color": _COLOURS["rule"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "grid.color": _COLOURS["rule"],
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}
_Value = TypeVar("_Value")
_WIDTH = 10.6  # inches; the page scales it to its own width
_NLL_FLOOR = 1e-3
"""Smallest loss on a logarithmic axis, nats/token."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of a legend: label, CSS variable, and the shape of its mark."""

    label: str
    colour: str
    shape: str = "dot"


@dataclass(frozen=True, kw_only=True)
class Plot:
    svg: str
    caption: str
    legend: list[Key] = field(default_factory=list)


def colour_of(row: Row, rows: Sequence[Row]) -> str:
    """CSS variable of a row: before, gold, or the number of its run."""
    if row.role in ("target", "gold"):
        return "before" if row.role == "target" else "gold"
    return f"run{[id(other) for other in results(list(rows))].index(id(row)) % RUN_COLOURS}"


@contextmanager
def _figure(height: float, *, columns: int = 1, rows: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        grid = figure.subplots(rows, columns, squeeze=False)
        axes = [axis for line in grid for axis in line]
        for axis in axes:
            axis.patch.set_alpha(0)
            axis.set_axisbelow(True)
            axis.grid(True)
        yield figure, axes


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure of the page, and used by nothing
    text = text.replace("xlink:href", "href")
    text = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', _rounded, text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1).strip()


def _rounded(attribute: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point: half the size, the same picture."""
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", attribute[0])


def _plain(value: float, _: object = None) -> str:
    return f"{value:g}".replace("-", "−")


def _legend(rows: Sequence[Row]) -> list[Key]:
    shapes = {"target": "ring", "gold": "diamond"}
    return [
        Key(label=row.label, colour=colour_of(row, rows), shape=shapes.get(row.role, "dot")) for row in rows
    ]


def _mark(axis: Axes, x: float, y: float, row: Row, rows: Sequence[Row], *, size: float = 7) -> None:
    """Before is a ring, gold a diamond, what a run made a dot."""
    colour = _COLOURS[colour_of(row, rows)]
    hollow = row.role == "target"
    axis.plot(
        [x],
        [y],
        marker="D" if row.role == "gold" else "o",
        markersize=size - 1 if row.role == "gold" else size,
        markerfacecolor=_COLOURS["paper"] if hollow else colour,
        markeredgecolor=colour if hollow else _COLOURS["paper"],
        markeredgewidth=1.6 if hollow else 0.8,
        linestyle="none",
        zorder=5 if row.role == "gold" else 4,
        clip_on=False,
    )


def _whisker(axis: Axes, estimate: Estimate, y: float, colour: str, *, width: float = 1.2) -> None:
    if estimate.low is not None and estimate.high is not None and math.isfinite(estimate.low + estimate.high):
        axis.plot(
            [estimate.low, estimate.high],
            [y, y],
            color=_COLOURS[colour],
            linewidth=width,
            alpha=0.55,
            zorder=3,
        )


def _finite(estimate: Estimate | None) -> Estimate | None:
    return estimate if estimate is not None and math.isfinite(estimate.value) else None


# -- the overview ----------------------------------------------------------------------------------

_GLANCE = (
    "forget/token_accuracy",
    "forget/exact_match",
    "forget/verbatim_rouge_l",
    "facts/unique_recall",
    "privacy/loss_auc",
    "facts/shared_recall",
    "retain/token_accuracy",
    "retain/exact_match",
    *(name for name in GENERAL_ABILITY if describe(name).high == 1),
)


def glance(runs: list[RunData]) -> Plot | None:
    """Every key metric on one scale from 0 to 1: before, after, gold."""
    rows = _capped(comparison_rows(runs))
    names = [name for name in _GLANCE if any(_finite(row.estimate(name)) for row in results(rows))]
    if not names:
        return None
    made = results(rows)
    spread = min(0.62, 0.16 * (len(made) - 1))
    height = 0.55 + len(names) * max(0.36, 0.16 * len(made) + 0.2)
    with _figure(height) as (figure, [axis]):
        for line, name in enumerate(names):
            for row in rows:
                estimate = _finite(row.estimate(name))
                if estimate is None:
                    continue
                nth = next((i for i, other in enumerate(made) if other is row), None)
                y = float(line)
                if nth is not None and len(made) > 1:
                    y += spread * (nth / (len(made) - 1) - 0.5)
                if row.role == "gold":
                    _band(axis, estimate, line)
                elif row.role != "target":
                    before = _finite(row.target.metrics.get(name)) if row.target else None
                    if before:
                        axis.plot(
                            [before.value, estimate.value],
                            [y, y],
                            color=_COLOURS["before"],
                            linewidth=0.9,
                            alpha=0.6,
                        )
                    _whisker(axis, estimate, y, colour_of(row, rows), width=3.2)
                _mark(axis, estimate.value, y, row, rows)
        axis.set_xlim(-0.01, 1.01)
        axis.set_ylim(len(names) - 0.45, -0.55)
        axis.set_yticks(range(len(names)), [metric_of(name).label for name in names])
        axis.tick_params(axis="y", length=0, labelcolor=_COLOURS["ink"], labelsize=9)
        axis.grid(False, axis="y")
        axis.spines["left"].set_visible(False)
        axis.xaxis.set_major_formatter(FuncFormatter(_plain))
        svg = _svg(figure, "key metrics before, after and for the gold model")
    has_gold = any(row.role == "gold" for row in rows)
    caption = "Bars are intervals" + (", the band is gold's. " if has_gold else ". ")
    caption += (
        "For what was to be forgotten, the aim is gold's place, not the left edge; for the rest it is "
        "before's place."
        if has_gold
        else "Without a gold model there is no place on the left to aim for."
        if any(row.role == "unlearned" for row in rows)
        else ""
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs), legend=_legend(rows))


def _band(axis: Axes, estimate: Estimate, line: float) -> None:
    if estimate.low is not None and estimate.high is not None and math.isfinite(estimate.low + estimate.high):
        axis.fill_betweenx(
            [line - 0.4, line + 0.4],
            estimate.low,
            estimate.high,
            color=_COLOURS["gold"],
            alpha=0.18,
            linewidth=0,
        )


def _capped(rows: list[Row]) -> list[Row]:
    """As many runs as there are colours, so that no two look alike."""
    kept = {id(row) for row in results(rows)[:RUN_COLOURS]}
    return [row for row in rows if row.role in ("target", "gold") or id(row) in kept]


def _and_capped(caption: str, runs: list[RunData]) -> str:
    count = len(results(comparison_rows(runs)))
    more = f" The first {RUN_COLOURS} of {count} runs are drawn." if count > RUN_COLOURS else ""
    return caption.strip() + more


# -- training --------------------------------------------------------------------------------------


_TERM_WORDS = {
    "loss": "loss (total)",
    "retain_kl": "KL to the reference, retain",
    "retain_nll": "NLL, retain",
    "forget_nll": "NLL, forget",
}


def loss_curves(runs: list[RunData]) -> Plot | None:
    """Every term of the loss by step; the total too, where the runs minimise the same one."""
    rows = _capped(comparison_rows(runs))
    drawn = [row for row in results(rows) if any(run.train_rows for run in row.runs)]
    if not drawn:
        return None
    terms = list(dict.fromkeys(term for row in drawn for term in row.run.terms))
    same = len({(row.run.loss, tuple(row.run.terms)) for row in drawn}) == 1
    panels = ["loss", *terms] if same else terms
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    with _figure(2.25 * lines + 0.1, columns=columns, rows=lines) as (figure, axes):
        for axis, term in zip(axes, panels, strict=False):
            seen: list[float] = []
            for row, run in _every_seed(drawn):
                points = [
                    (r["step"], r[term]) for r in run.train_rows if math.isfinite(r.get(term, math.nan))
                ]
                if points:
                    seen += [y for _, y in points]
                    axis.plot(*zip(*points, strict=True), color=_COLOURS[colour_of(row, rows)], linewidth=1.2)
                kept = run.training.kept_step if run.training else None
                if kept is not None:
                    axis.axvline(
                        kept, color=_COLOURS[colour_of(row, rows)], linewidth=0.8, linestyle=(0, (2, 3))
                    )
            positive = [y for y in seen if y > 0]
            if positive and len(positive) == len(seen) and max(positive) > 100 * min(positive):
                axis.set_yscale("log")
                _decades(axis, "y")
            else:
                axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
                axis.yaxis.set_major_formatter(FuncFormatter(_plain))
            axis.set_title(_TERM_WORDS.get(term, term.replace("_", " ")))
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        svg = _svg(figure, "loss terms by training step")
    caption = "Each term by training step, before its weight; the dotted line is the step that was kept."
    if not same:
        caption += " The totals of different losses are not comparable and are not drawn."
    return Plot(svg=svg, caption=_and_capped(caption, runs), legend=_legend(drawn) if len(drawn) > 1 else [])


def _every_seed(rows: list[Row]) -> list[tuple[Row, RunData]]:
    return [(row, run) for row in rows for run in row.runs]


def trajectory(runs: list[RunData]) -> Plot | None:
    """What was forgotten against what was retained, on the way: one line a run."""
    rows = _capped(comparison_rows(runs))
    y_name = "retain/token_accuracy"
    panels = [
        x_name
        for x_name in ("forget/answer_nll", "forget/token_accuracy")
        if any(_path(run, x_name, y_name) for row in results(rows) for run in row.runs)
    ]
    if not panels:
        return None
    with _figure(3.5, columns=len(panels)) as (figure, axes):
        for axis, x_name in zip(axes, panels, strict=True):
            seen = []
            for row, run in _every_seed(results(rows)):
                path = _path(run, x_name, y_name)
                if not path:
                    continue
                colour = _COLOURS[colour_of(row, rows)]
                seen += [x for _, x, _ in path]
                xs, ys = [x for _, x, _ in path], [y for _, _, y in path]
                before = run.models["target"].metrics if "target" in run.models else {}
                begin = _finite(before.get(x_name)), _finite(before.get(y_name))
                if begin[0] and begin[1] and path[0][0] > 0:
                    axis.plot(
                        [begin[0].value, xs[0]],
                        [begin[1].value, ys[0]],
                        color=colour,
                        linewidth=0.9,
                        linestyle=(0, (1, 3)),
                    )
                axis.plot(xs, ys, color=colour, marker="o", markersize=3, markeredgewidth=0, linewidth=1.2)
                kept = run.training.kept_step if run.training else None
                for step, x, y in path:
                    if step == kept:
                        axis.plot(
                            [x],
                            [y],
                            marker="o",
                            markersize=10,
                            markerfacecolor="none",
                            markeredgecolor=colour,
                            markeredgewidth=1.6,
                        )
            for row in rows:
                if row.role in ("target", "gold"):
                    place = _finite(row.estimate(x_name)), _finite(row.estimate(y_name))
                    if place[0] and place[1]:
                        seen.append(place[0].value)
                        _mark(axis, place[0].value, place[1].value, row, rows, size=8)
            if x_name.endswith("nll") and max(seen) > 20 * max(_NLL_FLOOR, min(seen)) and min(seen) > 0:
                axis.set_xscale("log")
                _decades(axis, "x")
            else:
                axis.xaxis.set_major_formatter(FuncFormatter(_plain))
            metric = metric_of(x_name)
            axis.set_xlabel(f"{metric.label} ({metric.unit})")
            axis.set_ylabel(metric_of(y_name).label)
            axis.yaxis.set_major_formatter(FuncFormatter(_plain))
            axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        for left, right in pairwise(axes):
            right.sharey(left)
            right.set_ylabel("")
        svg = _svg(figure, "forgetting against retaining during training")
    caption = (
        "One dot an evaluation during training, joined in order; the circle is the step that was kept. "
        "Evaluations during training look at a sample of each corpus, the marks of before and gold at all of "
        "it."
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs), legend=_legend(rows))


def _path(run: RunData, x_name: str, y_name: str) -> list[tuple[float, float, float]]:
    """(step, x, y) of every evaluation that has both."""
    return [
        (row["step"], row[x_name], row[y_name])
        for row in run.eval_rows
        if math.isfinite(row.get(x_name, math.nan)) and math.isfinite(row.get(y_name, math.nan))
    ]


# -- item by item ----------------------------------------------------------------------------------


def scatter(runs: list[RunData]) -> Plot | None:
    """Forget loss of every item, before against after."""
    rows = comparison_rows(runs)
    pairs = {}
    for row in [row for row in results(rows) if row.role == "unlearned"]:
        before = row.run.values(model="target", set="forget", metric="answer_nll")
        after = row.run.values(model="unlearned", set="forget", metric="answer_nll")
        facts = {e.item: e.fact for e in row.run.items_of("target") if (e.suite, e.set) == (None, "forget")}
        points = [(before[i], after[i], facts[i]) for i in before if i in after]
        if any(math.isfinite(x + y) for x, y, _ in points):
            pairs[row.label] = (row, points)
    if not pairs:
        return None
    shown = list(pairs.values())[:MOST_PANELS]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    every = [
        max(_NLL_FLOOR, value)
        for _, points in shown
        for x, y, _ in points
        for value in (x, y)
        if math.isfinite(value)
    ]
    low, high = min(every) / 1.5, max(every) * 1.5
    has_facts = any(fact for _, points in shown for _, _, fact in points)
    with _figure((3.4 if columns < 3 else 2.9) * lines, columns=max(columns, 2), rows=lines) as (
        figure,
        axes,
    ):
        for axis, (row, points) in zip(axes, shown, strict=False):
            colour = _COLOURS[colour_of(row, rows)]
            for shared in (False, True):
                chosen = [
                    (x, y)
                    for x, y, fact in _thinned(points)
                    if (fact == "shared") is shared and math.isfinite(x + y)
                ]
                if chosen:
                    axis.plot(
                        [max(_NLL_FLOOR, x) for x, _ in chosen],
                        [max(_NLL_FLOOR, y) for _, y in chosen],
                        linestyle="none",
                        marker="o",
                        markersize=3.6,
                        markerfacecolor="none" if shared else colour,
                        markeredgecolor=colour,
                        markeredgewidth=0.9 if shared else 0,
                        alpha=0.75,
                    )
            axis.plot([low, high], [low, high], color=_COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
            gold = _finite(row.gold.metrics.get("forget/answer_nll")) if row.gold else None
            if gold and gold.value > 0:
                axis.axhline(gold.value, color=_COLOURS["gold"], linewidth=1.2)
                axis.annotate(
                    "gold's mean",
                    (high, gold.value),
                    xytext=(-2, -4),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                    fontsize=8,
                    color=_COLOURS["gold"],
                )
            axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            _decades(axis, "x")
            _decades(axis, "y")
            axis.set_title(row.label + _first_seed(row))
            axis.set_xlabel("before, nats/token")
            axis.set_ylabel("after, nats/token")
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        if len(shown) == 1:
            _cumulative(axes[1], shown[0][0])
        svg = _svg(figure, "forget loss of every item before and after")
    caption = "One mark a forget record: above the dashed line its loss rose."
    if has_facts:
        caption += " Filled: facts stated nowhere else; hollow: facts that retained documents state too."
    if len(shown) == 1 and axes[1].get_visible():
        caption += (
            " Right: the share of records with at most that loss; forgotten evenly means lying on gold's."
        )
    most = max(len(points) for _, points in shown)
    if most > MOST_POINTS:
        caption += f" {MOST_POINTS} of {most} records are drawn, evenly spaced."
    if len(pairs) > len(shown):
        caption += f" The first {len(shown)} of {len(pairs)} runs are drawn."
    lost = sum(not math.isfinite(x + y) for _, points in shown for x, y, _ in points)
    if lost:
        caption += f" {lost} record{'s' * (lost > 1)} without a finite loss cannot be drawn."
    legend = [
        Key(label=label, colour=colour, shape="line")
        for label, colour in (
            ("before", "before"),
            ("after", "run0"),
            ("gold", "gold"),
            ("data never seen", "unseen"),
        )
        if len(shown) == 1 and (row := shown[0][0]) and _curve(row, colour)
    ]
    return Plot(svg=svg, caption=caption, legend=legend)


def _first_seed(row: Row) -> str:
    """Which run is drawn, where items of one run only can be."""
    return f": seed {row.run.seed}" if row.seeds else ""


def _curve(row: Row, colour: str) -> list[float]:
    """Losses of the records that a curve of that colour shows."""
    model, set = {
        "before": ("target", "forget"),
        "run0": ("unlearned", "forget"),
        "gold": ("gold", "forget"),
        "unseen": ("gold" if row.gold else "unlearned", "holdout"),
    }[colour]
    return sorted(_nlls(row.run, model, set))


def _cumulative(axis: Axes, row: Row) -> None:
    """Share of records with at most so much loss: before, after, gold, unseen."""
    axis.set_visible(True)
    for colour, width in (("before", 1.4), ("unseen", 1.2), ("gold", 1.8), ("run0", 2.0)):
        values = _curve(row, colour)
        if values:
            shares = [(i + 1) / len(values) for i in range(len(values))]
            kept = _thinned(range(len(values)), 200)
            axis.step(
                [values[i] for i in kept],
                [shares[i] for i in kept],
                where="post",
                color=_COLOURS[colour],
                linewidth=width,
            )
    axis.set_xscale("log")
    _decades(axis, "x")
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(FuncFormatter(_plain))
    axis.set_title("share of records with at most that loss")
    axis.set_xlabel("loss of one record, nats/token")


def _thinned(values: Sequence[_Value], most: int = MOST_POINTS) -> list[_Value]:
    """At most so many, evenly spaced: the same ones every time."""
    return list(values) if len(values) <= most else [values[i * len(values) // most] for i in range(most)]


def strips(runs: list[RunData]) -> Plot | None:
    """How the losses are distributed: forget records under each model, and unseen records beside them."""
    rows = _capped(comparison_rows(runs))
    bands: list[tuple[str, str, list[float]]] = []
    for row in rows:
        values = _nlls(row.run, row.role, "forget")
        if values:
            bands.append((f"forget, {row.label}{_first_seed(row)}", colour_of(row, rows), values))
    unseen_of = next((row for row in rows if row.role == "gold"), next(iter(results(rows)), None))
    if unseen_of and (values := _nlls(unseen_of.run, unseen_of.role, "holdout")):
        bands.append((f"never seen, {unseen_of.label}", "unseen", values))
    if len(bands) < 2:
        return None
    with _figure(0.6 + 0.5 * len(bands)) as (figure, [axis]):
        for line, (_, colour, values) in enumerate(bands):
            ordered = sorted(values)
            thin = _thinned(ordered)
            # the golden ratio fills a strip evenly without chance
            offsets = [0.56 * ((i * 0.6180339887498949) % 1 - 0.5) for i in range(len(thin))]
            axis.plot(
                thin,
                [line + offset for offset in offsets],
                linestyle="none",
                marker="o",
                markersize=2.6,
                markerfacecolor=_COLOURS[colour],
                markeredgewidth=0,
                alpha=0.45,
            )
            middle = ordered[len(ordered) // 2]
            axis.plot([middle, middle], [line - 0.36, line + 0.36], color=_COLOURS["ink"], linewidth=1.6)
        axis.set_xscale("log")
        _decades(axis, "x")
        axis.set_ylim(len(bands) - 0.5, -0.5)
        axis.set_yticks(range(len(bands)), [label for label, _, _ in bands])
        axis.tick_params(axis="y", length=0, labelcolor=_COLOURS["ink"], labelsize=9)
        axis.grid(False, axis="y")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("loss of one record, nats/token")
        svg = _svg(figure, "distribution of the loss of single records")
    caption = (
        "One dot a record, the stroke is the median. Forgotten well means: spread like gold's and like "
        "unseen data. "
        "Stragglers on the left are still known; stragglers on the right are over-forgotten and stand out."
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs))


def _nlls(run: RunData, role: str, set: str) -> list[float]:
    values = run.values(model=role, set=set, metric="answer_nll").values()
    return [max(_NLL_FLOOR, value) for value in values if math.isfinite(value)]


def _decades(axis: Axes, which: str) -> None:
    """Ticks of a logarithmic axis as plain numbers, thin enough to read."""
    ticks = axis.xaxis if which == "x" else axis.yaxis
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    span = math.log10(high / low) if low > 0 else 9
    subs = (1.0,) if span > 2.6 else (1.0, 3.0) if span > 1.2 else (1.0, 2.0, 5.0)
    ticks.set_major_locator(LogLocator(subs=subs))
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(_plain))


# -- detectability, facts --------------------------------------------------------------------------


def marginal(runs: list[RunData]) -> Plot | None:
    """Marginal information of every model, and what a one-token detector can make of it."""
    rows = _capped(comparison_rows(runs))
    informed = [
        row
        for row in rows
        if _finite(row.estimate("marginal/pooled")) or _finite(row.estimate("marginal/token"))
    ]
    if not informed:
        return None
    with _figure(0.85 + 0.4 * len(informed), columns=2) as (figure, [left, right]):
        bounds = []
        for line, row in enumerate(informed):
            colour = colour_of(row, rows)
            for name, offset, hollow in (("marginal/pooled", -0.13, False), ("marginal/token", 0.13, True)):
                estimate = _finite(row.estimate(name))
                if estimate:
                    _whisker(left, estimate, line + offset, colour, width=2.4)
                    left.plot(
                        [estimate.value],
                        [line + offset],
                        marker="s" if hollow else "o",
                        markersize=6,
                        markerfacecolor=_COLOURS["paper"] if hollow else _COLOURS[colour],
                        markeredgecolor=_COLOURS[colour],
                        markeredgewidth=1.4 if hollow else 0,
                        linestyle="none",
                        zorder=4,
                    )
            bayes, fano = (
                _finite(row.estimate(f"marginal/{name}"))
                for name in ("bayes_accuracy", "fano_accuracy_bound")
            )
            if bayes and fano:
                right.plot(
                    [bayes.value, fano.value], [line, line], color=_COLOURS[colour], linewidth=1, alpha=0.6
                )
            if bayes:
                bounds.append(bayes.value)
                right.plot(
                    [bayes.value],
                    [line],
                    marker="o",
                    markersize=6,
                    color=_COLOURS[colour],
                    markeredgewidth=0,
                    zorder=4,
                )
            if fano:
                bounds.append(fano.value)
                right.plot(
                    [fano.value],
                    [line],
                    marker="|",
                    markersize=13,
                    markeredgewidth=2.4,
                    color=_COLOURS[colour],
                    zorder=4,
                )
        for axis in (left, right):
            axis.set_ylim(len(informed) - 0.5, -0.5)
            axis.grid(False, axis="y")
            axis.spines["left"].set_visible(False)
            axis.tick_params(axis="y", length=0, labelcolor=_COLOURS["ink"], labelsize=9)
            axis.xaxis.set_major_formatter(FuncFormatter(_plain))
            axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        left.set_yticks(range(len(informed)), [row.label for row in informed])
        right.set_yticks(range(len(informed)), [""] * len(informed))
        left.set_xlim(left=0)
        left.set_title("marginal information")
        left.set_xlabel("nats (at most log 2 = 0.693)")
        right.set_title("accuracy of a detector that sees one token")
        right.set_xlabel("share of right answers")
        if bounds:
            right.set_xlim(min(0.5, *bounds) - 0.002, max(bounds) + 0.15 * (max(bounds) - 0.5) + 0.005)
        right.axvline(0.5, color=_COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
        svg = _svg(figure, "marginal information, Bayes accuracy and Fano bound")
    caption = (
        "Left: what one token tells of whether forget data took part; dot: pooled over all positions, "
        "square: position "
        "by position. Right: the dot is the best possible detector on these sets (Bayes), the stroke the "
        "bound that "
        "follows from the pooled information (Fano), dashed: guessing. None of this speaks of whole answers."
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs))


def recall(runs: list[RunData]) -> Plot | None:
    """Share of facts told when asked: those stated nowhere else, and those retained documents state too."""
    rows = _capped(comparison_rows(runs))
    names = [
        name
        for name in ("facts/unique_recall", "facts/shared_recall")
        if any(_finite(row.estimate(name)) for row in results(rows))
    ]
    if not names:
        return None
    there = [row for row in rows if any(_finite(row.estimate(name)) for name in names)]
    order = {"target": 0, "unlearned": 1, "model": 1, "gold": 2}
    there = sorted(there, key=lambda row: order[row.role])
    titles = {
        "facts/unique_recall": "facts stated only in the forget data",
        "facts/shared_recall": "facts that retained documents state too",
    }
    with _figure(0.75 + 0.36 * len(there), columns=len(names)) as (figure, axes):
        for axis, name in zip(axes, names, strict=True):
            for line, row in enumerate(there):
                estimate = _finite(row.estimate(name))
                if estimate is None:
                    continue
                colour = _COLOURS[colour_of(row, rows)]
                axis.barh([line], [estimate.value], height=0.56, color=colour, alpha=0.85, linewidth=0)
                end = estimate.value
                if estimate.low is not None and estimate.high is not None:
                    axis.plot(
                        [estimate.low, estimate.high], [line, line], color=_COLOURS["ink"], linewidth=1.1
                    )
                    end = max(end, estimate.high)
                axis.annotate(
                    number(estimate.value),
                    (end, line),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=_COLOURS["muted"],
                )
            axis.set_xlim(0, 1.12)
            axis.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
            axis.xaxis.set_major_formatter(FuncFormatter(_plain))
            axis.set_ylim(len(there) - 0.5, -0.5)
            axis.set_yticks(
                range(len(there)), [row.label for row in there] if axis is axes[0] else [""] * len(there)
            )
            axis.tick_params(axis="y", length=0, labelcolor=_COLOURS["ink"], labelsize=9)
            axis.grid(False, axis="y")
            axis.spines["left"].set_visible(False)
            axis.set_title(titles[name])
            axis.set_xlabel("share told when asked")
        svg = _svg(figure, "recall of unique and shared facts")
    has_gold = any(row.role == "gold" for row in there)
    caption = (
        "Both kinds are asked about the forgotten people. The left should fall"
        + (" to gold's" if has_gold else "")
        + ", the right should stay as before: only what the forget data adds is to go."
        if len(names) == 2
        else ""
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs))


# -- suites and membership -------------------------------------------------------------------------


def truth_ratios(runs: list[RunData]) -> Plot | None:
    """How the forget items' truth ratios are distributed, and how far from gold's: the KS distance D."""
    rows = _capped(comparison_rows(runs))
    suites = sorted({item.suite for row in rows for item in row.run.items if item.suite and _ratio(item)})
    shown = [(suite, row, values) for suite in suites for row in rows if (values := _ratios(row, suite))]
    if not shown:
        return None
    with _figure(3.3, columns=max(2, len(suites))) as (figure, axes):
        for axis, suite in zip(axes, suites, strict=False):
            of_suite = [(row, values) for name, row, values in shown if name == suite]
            gold = next((values for row, values in of_suite if row.role == "gold"), None)
            for row, values in of_suite:
                _steps(axis, values, _COLOURS[colour_of(row, rows)], 1.8 if row.role == "gold" else 1.4)
            others = [(row, values) for row, values in of_suite if gold and row.role != "gold"]
            for line, (row, values) in enumerate(reversed(others)):
                _distance(axis, values, gold or [], row.label, _COLOURS[colour_of(row, rows)], line)
            axis.set_xscale("log")
            _decades(axis, "x")
            axis.set_ylim(0, 1.02)
            axis.yaxis.set_major_formatter(FuncFormatter(_plain))
            axis.set_title(f"{suite}: share of forget items with at most that truth ratio")
            axis.set_xlabel("truth ratio: p(wrong answer) / p(paraphrase of the true one)")
        for axis in axes[len(suites) :]:
            axis.set_visible(False)
        svg = _svg(figure, "distribution of the truth ratios of forget items")
    has_gold = any(row.role == "gold" for _, row, _ in shown)
    caption = (
        "Forgotten means lying on gold's curve. The stroke is D, the largest distance to it, of which forget "
        "quality is the p-value. Left of gold's: the truth is still known."
        if has_gold
        else "Without a gold model there is no curve to lie on, and no forget quality."
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs), legend=_legend([row for _, row, _ in shown]))


def _ratio(item: ItemValues) -> float | None:
    """Above 0; None where there is none, or none that can be drawn."""
    ratio = item.values.get("truth_ratio")
    if ratio is None and "log_truth_ratio" in item.values:
        ratio = math.exp(min(_LARGEST_LOG, max(-_LARGEST_LOG, item.values["log_truth_ratio"])))
    return ratio if ratio is not None and math.isfinite(ratio) and ratio > 0 else None


_LARGEST_LOG = 50.0
"""A truth ratio beyond e^±50 is drawn there."""


def _ratios(row: Row, suite: str) -> list[float]:
    items = row.run.items_of(row.role)
    return sorted(
        ratio for item in items if (item.suite, item.set) == (suite, "forget") and (ratio := _ratio(item))
    )


def _steps(axis: Axes, ordered: Sequence[float], colour: str, width: float) -> None:
    """Share of the values with at most that value."""
    kept = _thinned(range(len(ordered)), 200)
    shares = [(i + 1) / len(ordered) for i in kept]
    axis.step([ordered[i] for i in kept], shares, where="post", color=colour, linewidth=width)


def _distance(
    axis: Axes, values: Sequence[float], gold: Sequence[float], label: str, colour: str, line: int
) -> None:
    """D between two samples: a stroke where they are furthest apart, the number in a corner."""
    test = ks_test(values, gold)
    at, d = float(test.statistic_location), float(test.statistic)
    ends = [sum(value <= at for value in sample) / len(sample) for sample in (values, gold)]
    axis.plot([at, at], ends, color=colour, linewidth=1.6, linestyle=(0, (3, 2)))
    axis.annotate(
        f"{label}: D = {number(d)}",
        (1, 0),
        xytext=(-4, 6 + 11 * line),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=colour,
    )


_ATTACKS = {
    "answer_nll": "loss",
    "zlib": "zlib",
    "min_k": "min-k",
    "min_k_plus_plus": "min-k++",
    "reference": "reference",
    "gradnorm": "gradient norm",
}
"""Scores of items that membership inference goes by, higher where trained on; the loss by its opposite."""


def roc(runs: list[RunData]) -> Plot | None:
    """What each membership attack makes of each model: forget items found against unseen ones accused."""
    rows = _capped(comparison_rows(runs))
    asked = list(dict.fromkeys((item.suite, item.set) for row in rows for item in row.run.items))
    panels: dict[str | None, dict[str, list[tuple[Row, list[float], list[float]]]]] = {}
    for suite, set in asked:
        if set != "forget" and not set.endswith("_forget"):
            continue
        for score in _ATTACKS:
            for row in rows:
                forget = _scores(row, suite, set, score)
                holdout = _scores(row, suite, set.removesuffix("forget") + "holdout", score)
                if forget and holdout:
                    panels.setdefault(suite, {}).setdefault(score, []).append((row, forget, holdout))
    if not panels:
        return None
    columns = min(4, max(2, *(len(of_suite) for of_suite in panels.values())))
    lines = sum(math.ceil(len(of_suite) / columns) for of_suite in panels.values())
    with _figure((11.2 / columns) * lines, columns=columns, rows=lines) as (figure, axes):
        first, drawn_on = 0, []
        for suite, of_suite in panels.items():  # each begins a line of its own
            places = axes[first : first + len(of_suite)]
            first += columns * math.ceil(len(of_suite) / columns)
            drawn_on += [(a, suite, score, c) for a, (score, c) in zip(places, of_suite.items(), strict=True)]
        for axis in axes:
            axis.set_visible(False)
        for axis, suite, score, curves in drawn_on:
            axis.set_visible(True)
            axis.plot([0, 1], [0, 1], color=_COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
            for row, forget, holdout in curves:
                labels = [1] * len(forget) + [0] * len(holdout)
                accused, found, _ = roc_curve(labels, [*forget, *holdout])
                kept = [*_thinned(range(len(found)), 150), len(found) - 1]
                axis.step(
                    [accused[i] for i in kept],
                    [found[i] for i in kept],
                    where="post",
                    color=_COLOURS[colour_of(row, rows)],
                    linewidth=1.8 if row.role == "gold" else 1.3,
                )
            axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            axis.set_aspect("equal")
            axis.xaxis.set_major_formatter(FuncFormatter(_plain))
            axis.yaxis.set_major_formatter(FuncFormatter(_plain))
            axis.set_title(_ATTACKS[score] if suite is None else f"{suite}: {_ATTACKS[score]}")
            axis.set_xlabel("unseen items accused")
            axis.set_ylabel("forget items found")
        svg = _svg(figure, "ROC curves of membership attacks, forget against unseen items")
    drawn = {id(row): row for _, _, _, curves in drawn_on for row, _, _ in curves}
    caption = (
        "One panel an attack, one curve a model; the dashed line is guessing. The place to be is gold's "
        "curve: above it forget items still look trained on, below it they stand out by looking less so than "
        "unseen ones."
    )
    return Plot(svg=svg, caption=_and_capped(caption, runs), legend=_legend(list(drawn.values())))


def _scores(row: Row, suite: str | None, set: str, score: str) -> list[float]:
    values = row.run.values(model=row.role, set=set, metric=score, suite=suite).values()
    sign = -1.0 if score == "answer_nll" else 1.0
    return [sign * value for value in values if math.isfinite(value)]


FIGURES: dict[str, Callable[[list[RunData]], Plot | None]] = {
    "glance": glance,
    "loss_curves": loss_curves,
    "trajectory": trajectory,
    "scatter": scatter,
    "strips": strips,
    "marginal": marginal,
    "recall": recall,
    "truth_ratios": truth_ratios,
    "roc": roc,
}
"""Every figure by the name under which the page places it; None where a run has nothing to draw."""
