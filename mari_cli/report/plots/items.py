"""Figures of single items: the loss of every record before and after."""

import math

from matplotlib.axes import Axes

from mari_cli.errors import counted
from mari_cli.report.comparison import ComparisonRow, comparison_rows, results
from mari_cli.report.plots import style
from mari_cli.report.plots.style import COLOURS, Key, Plot
from mari_cli.report.read import RunData


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
    shown = list(pairs.values())[: style.MOST_PANELS]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    every = [
        max(style.NLL_FLOOR, value)
        for _, points in shown
        for x, y, _ in points
        for value in (x, y)
        if math.isfinite(value)
    ]
    low, high = min(every) / 1.5, max(every) * 1.5
    has_facts = any(fact for _, points in shown for _, _, fact in points)
    height = (3.4 if columns < 3 else 2.9) * lines
    with style.draw_on(height, columns=max(columns, 2), rows=lines, used=len(shown)) as (figure, axes):
        for axis, (row, points) in zip(axes, shown, strict=False):
            colour = COLOURS[style.colour_of(row, rows)]
            for shared in (False, True):
                chosen = [
                    (x, y)
                    for x, y, fact in style.thin_out(points)
                    if (fact == "shared") is shared and math.isfinite(x + y)
                ]
                xs, ys = ([max(style.NLL_FLOOR, point[i]) for point in chosen] for i in (0, 1))
                face, edge = ("none", 0.9) if shared else (colour, 0)
                axis.plot(xs, ys, "o", color=colour, ms=3.6, mfc=face, mew=edge, alpha=0.75)
            axis.plot([low, high], [low, high], color=COLOURS["muted"], linewidth=0.8, linestyle=style.DASHED)
            gold = style.finite(row.estimate("forget/answer_nll", of="gold"))
            if gold and gold.value > 0:
                axis.axhline(gold.value, color=COLOURS["gold"], linewidth=1.2)
                at, ink = (high, gold.value), COLOURS["gold"]
                style.annotate(axis, "gold's mean", at, (-2, -4), ink, ha="right", va="top")
            axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            style.log_scale(axis, "x")
            style.log_scale(axis, "y")
            axis.set_title(row.label + style.first_seed(row))
            axis.set_xlabel("before, nats/token")
            axis.set_ylabel("after, nats/token")
        if len(shown) == 1:
            _draw_cumulative(axes[1], shown[0][0])
        svg = style.to_svg(figure, "forget loss of every item before and after")
    caption = "One mark a forget record: above the dashed line its loss rose."
    if has_facts:
        caption += " Filled: facts stated nowhere else; hollow: facts that retained documents state too."
    if len(shown) == 1 and axes[1].get_visible():
        caption += (
            " Right: the share of records with at most that loss; forgotten evenly means lying on gold's."
        )
    most = max(len(points) for _, points in shown)
    if most > style.MOST_POINTS:
        caption += f" {style.MOST_POINTS} of {most} records are drawn, evenly spaced."
    if len(pairs) > len(shown):
        caption += f" The first {len(shown)} of {len(pairs)} runs are drawn."
    lost = sum(not math.isfinite(x + y) for _, points in shown for x, y, _ in points)
    if lost:
        caption += f" {counted(lost, 'record')} without a finite loss cannot be drawn."
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


def _curve(row: ComparisonRow, colour: str) -> list[float]:
    """Sorted losses of the records that the curve with ``colour`` shows."""
    model, set = {
        "before": ("target", "forget"),
        "run0": ("unlearned", "forget"),
        "gold": ("gold", "forget"),
        "unseen": ("gold" if row.gold else "unlearned", "holdout"),
    }[colour]
    return sorted(_nlls(row.run, model, set))


def _draw_cumulative(axis: Axes, row: ComparisonRow) -> None:
    """Cumulative share of records by loss: before, after, gold, unseen."""
    axis.set_visible(True)
    for colour, width in (("before", 1.4), ("unseen", 1.2), ("gold", 1.8), ("run0", 2.0)):
        if values := _curve(row, colour):
            style.shares_up_to(axis, values, colour, width)
    axis.set_title("share of records with at most that loss")
    axis.set_xlabel("loss of one record, nats/token")


def strips(runs: list[RunData]) -> Plot | None:
    """Distribution of losses: forget records under each model, and unseen records."""
    rows = style.limit_runs(comparison_rows(runs))
    bands: list[tuple[str, str, list[float]]] = []
    for row in rows:
        values = _nlls(row.run, row.role, "forget")
        if values:
            bands.append((f"forget, {row.label}{style.first_seed(row)}", style.colour_of(row, rows), values))
    unseen_of = next((row for row in rows if row.role == "gold"), next(iter(results(rows)), None))
    if unseen_of and (values := _nlls(unseen_of.run, unseen_of.role, "holdout")):
        bands.append((f"never seen, {unseen_of.label}", "unseen", values))
    if len(bands) < 2:
        return None
    with style.draw_on(0.6 + 0.5 * len(bands)) as (figure, [axis]):
        for line, (_, colour, values) in enumerate(bands):
            ordered = sorted(values)
            thin = style.thin_out(ordered)
            # multiples of the golden ratio fill a strip evenly and are reproducible
            offsets = [0.56 * ((i * 0.6180339887498949) % 1 - 0.5) for i in range(len(thin))]
            ys = [line + offset for offset in offsets]
            axis.plot(thin, ys, "o", color=COLOURS[colour], ms=2.6, mew=0, alpha=0.45)
            middle = ordered[len(ordered) // 2]
            axis.plot([middle, middle], [line - 0.36, line + 0.36], color=COLOURS["ink"], linewidth=1.6)
        style.log_scale(axis, "x")
        style.name_lines(axis, [label for label, _, _ in bands])
        axis.set_xlabel("loss of one record, nats/token")
        svg = style.to_svg(figure, "distribution of the loss of single records")
    caption = (
        "One dot a record, the stroke is the median. "
        "Forgotten well means: spread like gold's and like unseen data. "
        "Stragglers on the left are still known; stragglers on the right are over-forgotten and stand out."
    )
    return Plot(svg=svg, caption=style.note_limit(caption, runs))


def _nlls(run: RunData, role: str, set: str) -> list[float]:
    values = run.values(model=role, set=set, metric="answer_nll").values()
    return [max(style.NLL_FLOOR, value) for value in values if math.isfinite(value)]
