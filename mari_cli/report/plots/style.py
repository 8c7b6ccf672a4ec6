"""The common style of all figures: their look, colours that follow the page, and conversion to inline SVG.

Text stays text and colours become CSS variables, so a figure takes the page's fonts and follows its light or
dark scheme. The same input gives the same bytes: there are no dates, random ids or random positions.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mari_cli.metrics.estimate import Estimate
from mari_cli.report.comparison import ComparisonRow, comparison_rows, results
from mari_cli.report.read import RunData

RUN_COLOURS = 8
"""Run colours before they repeat."""
MOST_PANELS = 6
MOST_POINTS = 400
"""Most item marks of one kind in one panel; the caption states how many are left out."""

COLOURS = {
    "ink": "#010201",
    "muted": "#010202",
    "rule": "#010203",
    "paper": "#010204",
    "before": "#010205",
    "gold": "#010206",
    "unseen": "#010207",
    **{f"run{i}": f"#0102{0x10 + i:02x}" for i in range(RUN_COLOURS)},
}
"""CSS variables of the page to unique colours that replace them while matplotlib draws."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mari",
    "text.parse_math": False,  # names come from users: `$` is a dollar sign
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the layout is the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titley": 1.0,  # no tick stands above a panel, so matplotlib need not look for one
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}
_Value = TypeVar("_Value")
SHAPES = {"target": "ring", "gold": "diamond"}
"""Marks of a legend by role; a dot for other models."""
DASHED = (0, (4, 3))
WIDTH = 10.6  # inches; the page scales it to its own width
NLL_FLOOR = 1e-3
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


def colour_of(row: ComparisonRow, rows: Sequence[ComparisonRow]) -> str:
    """CSS variable of a row: before, gold, or the number of its run."""
    if row.role in ("target", "gold"):
        return "before" if row.role == "target" else "gold"
    return f"run{[id(other) for other in results(list(rows))].index(id(row)) % RUN_COLOURS}"


@contextmanager
def draw_on(
    height: float, *, columns: int = 1, rows: int = 1, used: int | None = None
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its panels, row by row; panels after the first ``used`` are hidden."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        grid = figure.subplots(rows, columns, squeeze=False)
        axes = [axis for line in grid for axis in line]
        for axis in axes:
            axis.patch.set_alpha(0)
            axis.set_axisbelow(True)
            axis.grid(True)
        for axis in axes[used:] if used is not None else []:
            axis.set_visible(False)
        yield figure, axes


def to_svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure)  # the figure's canvas from now on, which measures its texts
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that matplotlib's font lacks: text stays text
        figure.dpi = 72  # of an SVG
        if layout := figure.get_layout_engine():  # while there is one, matplotlib draws all of a figure twice
            layout.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids repeat between figures of a page, and nothing uses them
    text = text.replace("xlink:href", "href")
    text = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', _rounded, text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1).strip()


def _rounded(attribute: re.Match[str]) -> str:
    """Coordinates rounded to a hundredth of a point: half the size, the same picture."""
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", attribute[0])


def plain_numbers(axis: Axes, which: str, *, ticks: int | None = None, whole: bool = False) -> None:
    """Format the numbers of the ``x`` or the ``y`` axis for people, with at most ``ticks`` ticks."""
    of_axis = axis.xaxis if which == "x" else axis.yaxis
    of_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    if ticks is not None:
        of_axis.set_major_locator(MaxNLocator(ticks, integer=whole, steps=[1, 2, 5, 10]))


def name_lines(axis: Axes, names: Sequence[str], *, margin: float = 0.5) -> None:
    """A named line for each of ``names``, from the top down, instead of a y axis."""
    axis.set_ylim(len(names) - 1 + margin, -margin)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"], labelsize=9)
    axis.grid(False, axis="y")
    axis.spines["left"].set_visible(False)


def legend_of(rows: Sequence[ComparisonRow]) -> list[Key]:
    return [
        Key(label=row.label, colour=colour_of(row, rows), shape=SHAPES.get(row.role, "dot")) for row in rows
    ]


def mark(
    axis: Axes, x: float, y: float, row: ComparisonRow, rows: Sequence[ComparisonRow], *, size: float = 7
) -> None:
    """Draw a mark: a ring for before, a diamond for gold, a dot for other models."""
    colour = COLOURS[colour_of(row, rows)]
    hollow = row.role == "target"
    axis.plot(
        [x],
        [y],
        marker="D" if row.role == "gold" else "o",
        markersize=size - 1 if row.role == "gold" else size,
        markerfacecolor=COLOURS["paper"] if hollow else colour,
        markeredgecolor=colour if hollow else COLOURS["paper"],
        markeredgewidth=1.6 if hollow else 0.8,
        linestyle="none",
        zorder=5 if row.role == "gold" else 4,
        clip_on=False,
    )


def annotate(
    axis: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], colour: str, **more: Any
) -> None:
    """Write small ``text``, ``offset`` points from ``at``."""
    axis.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=8, color=colour, **more)


def ends_of(estimate: Estimate) -> tuple[float, float] | None:
    """The ends of the estimate's interval; None if it has no finite interval."""
    if estimate.low is None or estimate.high is None or not math.isfinite(estimate.low + estimate.high):
        return None
    return estimate.low, estimate.high


def whisker(axis: Axes, estimate: Estimate, y: float, colour: str, *, width: float = 1.2) -> None:
    if ends := ends_of(estimate):
        axis.plot(ends, [y, y], color=COLOURS[colour], linewidth=width, alpha=0.55, zorder=3)


def finite(estimate: Estimate | None) -> Estimate | None:
    return estimate if estimate is not None and math.isfinite(estimate.value) else None


def limit_runs(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """As many runs as there are colours, so that no two runs look the same."""
    kept = {id(row) for row in results(rows)[:RUN_COLOURS]}
    return [row for row in rows if row.role in ("target", "gold") or id(row) in kept]


def note_limit(caption: str, runs: list[RunData]) -> str:
    count = len(results(comparison_rows(runs)))
    more = f" The first {RUN_COLOURS} of {count} runs are drawn." if count > RUN_COLOURS else ""
    return caption.strip() + more


def every_seed(rows: list[ComparisonRow]) -> list[tuple[ComparisonRow, RunData]]:
    return [(row, run) for row in rows for run in row.runs]


def first_seed(row: ComparisonRow) -> str:
    """The seed of the drawn run, for figures that can show the items of one run only."""
    return f": seed {row.run.seed}" if row.seeds else ""


def shares_up_to(axis: Axes, ordered: Sequence[float], colour: str, width: float) -> None:
    """Draw the cumulative share of ``ordered`` values."""
    kept = thin_out(range(len(ordered)), 200)
    shares = [(i + 1) / len(ordered) for i in kept]
    axis.step([ordered[i] for i in kept], shares, where="post", color=COLOURS[colour], linewidth=width)
    log_scale(axis, "x")
    axis.set_ylim(0, 1.02)
    plain_numbers(axis, "y")


def thin_out(values: Sequence[_Value], most: int = MOST_POINTS) -> list[_Value]:
    """At most ``most`` values, evenly spaced and the same every time."""
    return list(values) if len(values) <= most else [values[i * len(values) // most] for i in range(most)]


def log_scale(axis: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers as ticks, few enough to read."""
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    ticks = axis.xaxis if which == "x" else axis.yaxis
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    span = math.log10(high / low) if low > 0 else 9
    subs = (1.0,) if span > 2.6 else (1.0, 3.0) if span > 1.2 else (1.0, 2.0, 5.0)
    ticks.set_major_locator(LogLocator(subs=subs))
    ticks.set_minor_locator(NullLocator())
    plain_numbers(axis, which)
