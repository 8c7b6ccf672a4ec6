"""Figures of training: metrics and loss terms by step, and forgetting against retaining."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes

from mari_cli.report.comparison import comparison_rows, metric_of, results
from mari_cli.report.plots import style
from mari_cli.report.plots.style import COLOURS, Plot
from mari_cli.report.read import RunData
from mari_cli.suites.registry import headlines, judged_metrics

_TERM_WORDS = {
    "loss": "loss (total)",
    "retain_kl": "KL to the reference, retain",
    "retain_nll": "NLL, retain",
    "forget_nll": "NLL, forget",
}
_FEWER = "Evaluations during training may look at fewer records than the marks (`train.evaluate_items`)."


def loss_curves(runs: list[RunData]) -> Plot | None:
    """Every term of the loss by step; also the total, if all runs minimise the same loss."""
    rows = style.limit_runs(comparison_rows(runs))
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
    with style.draw_on(2.25 * lines + 0.1, columns=columns, rows=lines, used=len(panels)) as (figure, axes):
        for axis, term in zip(axes, panels, strict=False):
            seen: list[float] = []
            for row, run in style.every_seed(drawn):
                colour = COLOURS[style.colour_of(row, rows)]
                points = _points(run.train_rows, term)
                if points:
                    seen += [y for _, y in points]
                    axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.2)
                kept = run.training.kept_step if run.training else None
                if kept is not None:
                    axis.axvline(kept, color=colour, linewidth=0.8, linestyle=(0, (2, 3)))
            positive = [y for y in seen if y > 0]
            if positive and len(positive) == len(seen) and max(positive) > 100 * min(positive):
                style.log_scale(axis, "y")
            else:
                style.plain_numbers(axis, "y", ticks=5)
            axis.set_title(_TERM_WORDS.get(term, term.replace("_", " ")))
            axis.set_xlabel("step")
            style.plain_numbers(axis, "x", ticks=6, whole=True)
        svg = style.to_svg(figure, "loss terms by training step")
    caption = "Each term by training step, before its weight; the dotted line is the step that was kept."
    if not same:
        caption += " The totals of different losses are not comparable and are not drawn."
    legend = style.legend_of(drawn) if len(drawn) > 1 else []
    return Plot(svg=svg, caption=style.note_limit(caption, runs), legend=legend)


def approach(runs: list[RunData]) -> Plot | None:
    """Each metric that is followed, by training step, beside gold's interval: at rest, or passing by?"""
    rows = style.limit_runs(comparison_rows(runs))
    drawn = style.every_seed(results(rows))
    panels = [name for name in headlines("followed") if any(_points(run.eval_rows, name) for _, run in drawn)]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    with style.draw_on(2.5 * lines + 0.1, columns=columns, rows=lines, used=len(panels)) as (figure, axes):
        for axis, name in zip(axes, panels, strict=False):
            seen = [y for _, run in drawn for _, y in _points(run.eval_rows, name)]
            for row, run in drawn:
                colour = COLOURS[style.colour_of(row, rows)]
                kept = run.training.kept_step if run.training else None
                points = _points(run.eval_rows, name)
                axis.plot(*_columns(points), color=colour, marker="o", markersize=3, mew=0, linewidth=1.2)
                circle = [point for point in points if point[0] == kept]
                axis.plot(*_columns(circle), "o", markersize=10, mfc="none", mec=colour, mew=1.6)
            for row in rows:
                place = style.finite(row.estimate(name))
                if row.role not in ("target", "gold") or place is None:
                    continue
                seen.append(place.value)
                if row.role == "target":
                    style.mark(axis, 0, place.value, row, rows)
                    continue
                axis.axhline(place.value, color=COLOURS["gold"], linewidth=1.0)
                if ends := style.ends_of(place):
                    axis.axhspan(*ends, color=COLOURS["gold"], alpha=0.18, linewidth=0)
            _scale(axis, "y", name, seen, ticks=5)
            axis.set_title(metric_of(name).label)
            axis.set_xlabel("step")
            style.plain_numbers(axis, "x", ticks=6, whole=True)
        svg = style.to_svg(figure, "metrics during training, by step")
    caption = f"The ring at step 0 is the model before, the circle the step that was kept. {_FEWER}"
    if any(row.role == "gold" for row in rows):
        caption = (
            "A line that stays at gold's has come to rest there; a line that goes on away from gold's has "
            f"passed by. The band is gold's interval. {caption}"
        )
    return Plot(svg=svg, caption=style.note_limit(caption, runs), legend=style.legend_of(rows))


def _points(rows: Sequence[Mapping[str, float]], *names: str) -> list[tuple[float, ...]]:
    """(step, value, …) of every row with finite values of all ``names``."""
    there = [row for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]
    return [(row["step"], *(row[name] for name in names)) for row in there]


def _scale(axis: Axes, which: str, name: str, seen: Sequence[float], *, ticks: int | None = None) -> None:
    """A logarithmic axis for a metric without an upper end whose values lie far apart, else a plain one."""
    apart = max(seen) > 20 * max(style.NLL_FLOOR, min(seen)) and min(seen) > 0
    if metric_of(name).high == math.inf and apart:
        style.log_scale(axis, which)
    else:
        style.plain_numbers(axis, which, ticks=ticks)


def _columns(points: list[tuple[float, ...]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def trajectory(runs: list[RunData]) -> Plot | None:
    """Forgetting against retaining during training: one line per run."""
    rows = style.limit_runs(comparison_rows(runs))
    y_name = next(name for name in judged_metrics("kept") if "followed" in metric_of(name).views)
    forgotten = (name for name in judged_metrics("forgotten") if "followed" in metric_of(name).views)
    evaluated = [run.eval_rows for row in results(rows) for run in row.runs]
    panels = [x_name for x_name in forgotten if any(_points(each, x_name, y_name) for each in evaluated)]
    if not panels:
        return None
    with style.draw_on(3.5, columns=len(panels)) as (figure, axes):
        for axis, x_name in zip(axes, panels, strict=True):
            seen = []
            for row, run in style.every_seed(results(rows)):
                path = _points(run.eval_rows, x_name, y_name)
                if not path:
                    continue
                colour = COLOURS[style.colour_of(row, rows)]
                seen += [x for _, x, _ in path]
                xs, ys = [x for _, x, _ in path], [y for _, _, y in path]
                before = run.models["target"].metrics if "target" in run.models else {}
                begin = style.finite(before.get(x_name)), style.finite(before.get(y_name))
                if begin[0] and begin[1] and path[0][0] > 0:
                    way = [begin[0].value, xs[0]], [begin[1].value, ys[0]]
                    axis.plot(*way, color=colour, linewidth=0.9, linestyle=(0, (1, 3)))
                axis.plot(xs, ys, color=colour, marker="o", markersize=3, markeredgewidth=0, linewidth=1.2)
                kept = run.training.kept_step if run.training else None
                for step, x, y in path:
                    if step == kept:
                        axis.plot([x], [y], marker="o", markersize=10, mfc="none", mec=colour, mew=1.6)
            for row in rows:
                if row.role in ("target", "gold"):
                    place = style.finite(row.estimate(x_name)), style.finite(row.estimate(y_name))
                    if place[0] and place[1]:
                        seen.append(place[0].value)
                        style.mark(axis, place[0].value, place[1].value, row, rows, size=8)
            metric = metric_of(x_name)
            _scale(axis, "x", x_name, seen)
            axis.set_xlabel(f"{metric.label} ({metric.unit})")
            axis.set_ylabel(metric_of(y_name).label)
            style.plain_numbers(axis, "y", ticks=5)
        for left, right in pairwise(axes):
            right.sharey(left)
            right.set_ylabel("")
        svg = style.to_svg(figure, "forgetting against retaining during training")
    caption = (
        "One dot an evaluation during training, joined in order; the circle is the step that was kept. "
        f"{_FEWER}"
    )
    return Plot(svg=svg, caption=style.note_limit(caption, runs), legend=style.legend_of(rows))
