"""Figures of before, after and gold side by side: key metrics, facts, and marginal information."""

from typing import Any

from matplotlib.ticker import FixedLocator

from mari_cli.metrics.corpora import suite_of
from mari_cli.metrics.generation import FACTS
from mari_cli.report.comparison import comparison_rows, metric_of, reading_order, results
from mari_cli.report.format import number
from mari_cli.report.plots import style
from mari_cli.report.plots.style import COLOURS, Plot
from mari_cli.report.read import RunData
from mari_cli.suites.registry import headlines


def glance(runs: list[RunData]) -> Plot | None:
    """Every key metric on one scale from 0 to 1: before, after, gold."""
    rows = style.limit_runs(comparison_rows(runs))
    shown = [name for name in headlines("glance") if not suite_of(name)]
    shares = [name for name in shown if (metric_of(name).low, metric_of(name).high) == (0, 1)]
    names = [name for name in shares if any(style.finite(row.estimate(name)) for row in results(rows))]
    if not names:
        return None
    made = results(rows)
    spread = min(0.62, 0.16 * (len(made) - 1))
    height = 0.55 + len(names) * max(0.36, 0.16 * len(made) + 0.2)
    with style.draw_on(height) as (figure, [axis]):
        for line, name in enumerate(names):
            for row in rows:
                estimate = style.finite(row.estimate(name))
                if estimate is None:
                    continue
                nth = next((i for i, other in enumerate(made) if other is row), None)
                y = float(line)
                if nth is not None and len(made) > 1:
                    y += spread * (nth / (len(made) - 1) - 0.5)
                if row.role == "gold":
                    if ends := style.ends_of(estimate):
                        band, ink = [line - 0.4, line + 0.4], COLOURS["gold"]
                        axis.fill_betweenx(band, *ends, color=ink, alpha=0.18, linewidth=0)
                elif row.role != "target":
                    before = style.finite(row.estimate(name, of="target"))
                    if before:
                        way = [before.value, estimate.value], [y, y]
                        axis.plot(*way, color=COLOURS["before"], linewidth=0.9, alpha=0.6)
                    style.whisker(axis, estimate, y, style.colour_of(row, rows), width=3.2)
                style.mark(axis, estimate.value, y, row, rows)
        axis.set_xlim(-0.01, 1.01)
        style.name_lines(axis, [metric_of(name).label for name in names], margin=0.55)
        style.plain_numbers(axis, "x")
        svg = style.to_svg(figure, "key metrics before, after and for the gold model")
    has_gold = any(row.role == "gold" for row in rows)
    caption = "Bars are intervals" + (", the band is gold's. " if has_gold else ". ")
    caption += (
        "For what was to be forgotten, the aim is gold's place, not the left edge; "
        "for the rest it is before's place."
        if has_gold
        else "Without a gold model there is no place on the left to aim for."
        if any(row.role == "unlearned" for row in rows)
        else ""
    )
    return Plot(svg=svg, caption=style.note_limit(caption, runs), legend=style.legend_of(rows))


def marginal(runs: list[RunData]) -> Plot | None:
    """Marginal information of every model, and the accuracy of a detector that sees one token."""
    rows = style.limit_runs(comparison_rows(runs))
    informed = [
        row
        for row in rows
        if style.finite(row.estimate("marginal/pooled")) or style.finite(row.estimate("marginal/token"))
    ]
    if not informed:
        return None
    with style.draw_on(0.85 + 0.4 * len(informed), columns=2) as (figure, [left, right]):
        bounds = []
        for line, row in enumerate(informed):
            colour = style.colour_of(row, rows)
            for name, offset, hollow in (("marginal/pooled", -0.13, False), ("marginal/token", 0.13, True)):
                estimate = style.finite(row.estimate(name))
                if estimate:
                    style.whisker(left, estimate, line + offset, colour, width=2.4)
                    at, ink = ([estimate.value], [line + offset]), COLOURS[colour]
                    marker, face, edge = ("s", COLOURS["paper"], 1.4) if hollow else ("o", ink, 0)
                    left.plot(*at, marker, color=ink, ms=6, mfc=face, mew=edge, zorder=4)
            bayes = style.finite(row.estimate("marginal/bayes_accuracy"))
            fano = style.finite(row.estimate("marginal/fano_accuracy_bound"))
            ink = COLOURS[colour]
            if bayes and fano:
                right.plot([bayes.value, fano.value], [line, line], color=ink, linewidth=1, alpha=0.6)
            for bound, marker, size, edge in ((bayes, "o", 6, 0), (fano, "|", 13, 2.4)):
                if bound:
                    bounds.append(bound.value)
                    shape: dict[str, Any] = {"marker": marker, "markersize": size, "markeredgewidth": edge}
                    right.plot([bound.value], [line], color=ink, zorder=4, **shape)
        for axis in (left, right):
            style.name_lines(axis, [row.label if axis is left else "" for row in informed])
            style.plain_numbers(axis, "x", ticks=6)
        left.set_xlim(left=0)
        left.set_title("marginal information")
        left.set_xlabel("nats (at most log 2 = 0.693)")
        right.set_title("accuracy of a detector that sees one token")
        right.set_xlabel("share of right answers")
        if bounds:
            right.set_xlim(min(0.5, *bounds) - 0.002, max(bounds) + 0.15 * (max(bounds) - 0.5) + 0.005)
        right.axvline(0.5, color=COLOURS["muted"], linewidth=0.9, linestyle=style.DASHED)
        svg = style.to_svg(figure, "marginal information, Bayes accuracy and Fano bound")
    caption = (
        "Left: what one token tells of whether forget data took part; dot: pooled over all positions, "
        "square: position by position. "
        "Right: the dot is the best possible detector on these sets (Bayes), "
        "the stroke the bound that follows from the pooled information (Fano), dashed: guessing. "
        "None of this speaks of whole answers."
    )
    return Plot(svg=svg, caption=style.note_limit(caption, runs))


def facts(runs: list[RunData]) -> Plot | None:
    """Recall of facts: those stated nowhere else, and those that retained documents state too."""
    rows = style.limit_runs(comparison_rows(runs))
    made = results(rows)
    names = [fact.name for fact in FACTS if any(style.finite(row.estimate(fact.name)) for row in made)]
    if not names:
        return None
    there = [row for row in reading_order(rows) if any(style.finite(row.estimate(name)) for name in names)]
    with style.draw_on(0.75 + 0.36 * len(there), columns=len(names)) as (figure, axes):
        for axis, name in zip(axes, names, strict=True):
            for line, row in enumerate(there):
                estimate = style.finite(row.estimate(name))
                if estimate is None:
                    continue
                colour = COLOURS[style.colour_of(row, rows)]
                axis.barh([line], [estimate.value], height=0.56, color=colour, alpha=0.85, linewidth=0)
                end = estimate.value
                if ends := style.ends_of(estimate):
                    axis.plot(ends, [line, line], color=COLOURS["ink"], linewidth=1.1)
                    end = max(end, ends[1])
                told = number(estimate.value)
                style.annotate(axis, told, (end, line), (5, 0), COLOURS["muted"], va="center")
            axis.set_xlim(0, 1.12)
            axis.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
            style.plain_numbers(axis, "x")
            style.name_lines(axis, [row.label if axis is axes[0] else "" for row in there])
            axis.set_title(metric_of(name).label)
            axis.set_xlabel("share told when asked")
        svg = style.to_svg(figure, "recall of unique and shared facts")
    has_gold = any(row.role == "gold" for row in there)
    caption = (
        "Both kinds are asked about the forgotten people. The left should fall"
        + (" to gold's" if has_gold else "")
        + ", the right should stay as before: only what the forget data adds is to go."
        if len(names) == 2
        else ""
    )
    return Plot(svg=svg, caption=style.note_limit(caption, runs))
