"""Figures of single items from suites and membership attacks: truth ratios and ROC curves."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from sklearn.metrics import roc_curve

from mari_cli.metrics.forget_quality import ks_test
from mari_cli.metrics.items import ItemValues
from mari_cli.metrics.membership import ATTACKS
from mari_cli.report.comparison import ComparisonRow, comparison_rows
from mari_cli.report.format import number
from mari_cli.report.plots import style
from mari_cli.report.plots.style import COLOURS, Plot
from mari_cli.report.read import RunData


def truth_ratios(runs: list[RunData]) -> Plot | None:
    """Distribution of the forget items' truth ratios, and its distance from gold's, the KS distance D."""
    rows = style.limit_runs(comparison_rows(runs))
    suites = sorted({item.suite for row in rows for item in row.run.items if item.suite and _ratio(item)})
    shown = [(suite, row, values) for suite in suites for row in rows if (values := _ratios(row, suite))]
    if not shown:
        return None
    with style.draw_on(3.3, columns=max(2, len(suites)), used=len(suites)) as (figure, axes):
        for axis, suite in zip(axes, suites, strict=False):
            of_suite = [(row, values) for name, row, values in shown if name == suite]
            gold = next((values for row, values in of_suite if row.role == "gold"), None)
            for row, values in of_suite:
                width = 1.8 if row.role == "gold" else 1.4
                style.shares_up_to(axis, values, style.colour_of(row, rows), width)
            others = [(row, values) for row, values in of_suite if gold and row.role != "gold"]
            for line, (row, values) in enumerate(reversed(others)):
                _draw_distance(axis, values, gold or [], row.label, COLOURS[style.colour_of(row, rows)], line)
            axis.set_title(f"{suite}: share of forget items with at most that truth ratio")
            axis.set_xlabel("truth ratio: p(wrong answer) / p(paraphrase of the true one)")
        svg = style.to_svg(figure, "distribution of the truth ratios of forget items")
    has_gold = any(row.role == "gold" for _, row, _ in shown)
    caption = (
        "Forgotten means lying on gold's curve. "
        "The stroke is D, the largest distance to it, of which forget quality is the p-value. "
        "Left of gold's: the truth is still known."
        if has_gold
        else "Without a gold model there is no curve to lie on, and no forget quality."
    )
    return Plot(
        svg=svg, caption=style.note_limit(caption, runs), legend=style.legend_of([row for _, row, _ in shown])
    )


def _ratio(item: ItemValues) -> float | None:
    """The item's truth ratio, above 0; None if it is missing or cannot be drawn."""
    ratio = item.values.get("truth_ratio")
    if ratio is None and "log_truth_ratio" in item.values:
        ratio = math.exp(min(_LARGEST_LOG, max(-_LARGEST_LOG, item.values["log_truth_ratio"])))
    return ratio if ratio is not None and math.isfinite(ratio) and ratio > 0 else None


_LARGEST_LOG = 50.0
"""A truth ratio beyond e^±50 is drawn at e^±50."""


def _ratios(row: ComparisonRow, suite: str) -> list[float]:
    items = row.run.items_of(row.role)
    return sorted(
        ratio for item in items if (item.suite, item.set) == (suite, "forget") and (ratio := _ratio(item))
    )


def _draw_distance(
    axis: Axes, values: Sequence[float], gold: Sequence[float], label: str, colour: str, line: int
) -> None:
    """D between two samples: a line where they differ most, and the number in a corner."""
    test = ks_test(values, gold)
    at, d = float(test.statistic_location), float(test.statistic)
    ends = [sum(value <= at for value in sample) / len(sample) for sample in (values, gold)]
    axis.plot([at, at], ends, color=colour, linewidth=1.6, linestyle=(0, (3, 2)))
    text, offset = f"{label}: D = {number(d)}", (-4, 6 + 11 * line)
    style.annotate(axis, text, (1, 0), offset, colour, xycoords="axes fraction", ha="right")


def roc(runs: list[RunData]) -> Plot | None:
    """ROC curves of each attack on each model: found forget items against falsely accused unseen items."""
    rows = style.limit_runs(comparison_rows(runs))
    asked = list(dict.fromkeys((item.suite, item.set) for row in rows for item in row.run.items))
    panels: dict[str | None, dict[str, list[tuple[ComparisonRow, list[float], list[float]]]]] = {}
    for suite, set in asked:
        if set != "forget" and not set.endswith("_forget"):
            continue
        for score in ATTACKS:
            for row in rows:
                forget = _scores(row, suite, set, score)
                holdout = _scores(row, suite, set.removesuffix("forget") + "holdout", score)
                if forget and holdout:
                    panels.setdefault(suite, {}).setdefault(score, []).append((row, forget, holdout))
    if not panels:
        return None
    columns = min(4, max(2, *(len(of_suite) for of_suite in panels.values())))
    lines = sum(math.ceil(len(of_suite) / columns) for of_suite in panels.values())
    with style.draw_on((11.2 / columns) * lines, columns=columns, rows=lines, used=0) as (figure, axes):
        first, drawn_on = 0, []
        for suite, of_suite in panels.items():  # each suite begins a new line of panels
            places = axes[first : first + len(of_suite)]
            first += columns * math.ceil(len(of_suite) / columns)
            drawn_on += [(a, suite, score, c) for a, (score, c) in zip(places, of_suite.items(), strict=True)]
        for axis, suite, score, curves in drawn_on:
            axis.set_visible(True)
            axis.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.8, linestyle=style.DASHED)
            for row, forget, holdout in curves:
                labels = [1] * len(forget) + [0] * len(holdout)
                accused, found, _ = roc_curve(labels, [*forget, *holdout])
                kept = [*style.thin_out(range(len(found)), 150), len(found) - 1]
                axis.step(
                    [accused[i] for i in kept],
                    [found[i] for i in kept],
                    where="post",
                    color=COLOURS[style.colour_of(row, rows)],
                    linewidth=1.8 if row.role == "gold" else 1.3,
                )
            axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            axis.set_aspect("equal")
            style.plain_numbers(axis, "x")
            style.plain_numbers(axis, "y")
            axis.set_title(ATTACKS[score].label if suite is None else f"{suite}: {ATTACKS[score].label}")
            axis.set_xlabel("unseen items accused")
            axis.set_ylabel("forget items found")
        svg = style.to_svg(figure, "ROC curves of membership attacks, forget against unseen items")
    drawn = {id(row): row for _, _, _, curves in drawn_on for row, _, _ in curves}
    caption = (
        "One panel an attack, one curve a model; the dashed line is guessing. "
        "The place to be is gold's curve: above it forget items still look trained on, "
        "below it they stand out by looking less so than unseen ones."
    )
    legend = style.legend_of(list(drawn.values()))
    return Plot(svg=svg, caption=style.note_limit(caption, runs), legend=legend)


def _scores(row: ComparisonRow, suite: str | None, set: str, attack: str) -> list[float]:
    """Scores of the items of a set, higher for items that look more trained on."""
    found = []
    for item in row.run.items_of(row.role):
        if (item.suite, item.set) == (suite, set):
            try:
                found.append(ATTACKS[attack].column.of(item))
            except KeyError:
                continue
    return [value for value in found if math.isfinite(value)]
