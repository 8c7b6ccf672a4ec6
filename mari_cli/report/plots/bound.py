"""The bound against measurement along a run: accuracies that information allows, and those of detectors."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from mari_cli.metrics.bound import accuracy_of_advantage, fano_accuracy_bound, information_of_tokens
from mari_cli.metrics.membership import ATTACKS, advantage_of
from mari_cli.report.comparison import comparison_rows, results
from mari_cli.report.plots import style
from mari_cli.report.plots.style import COLOURS, Key, Plot
from mari_cli.report.read import RunData

DETECTORS = {"loss": "run1", "zlib": "run2", "min_k": "run3", "min_k_plus_plus": "run4"}
"""Attacks that are drawn, with their colours."""
MARKS = {"target": ("o", "before"), "unlearned": ("s", "now"), "gold": ("D", "gold")}


def accuracies(values: Mapping[str, Any], tokens: float | None, prior: float) -> dict[str, float]:
    """Of one model's metrics by full name, the accuracy of each bound and of each detector's best threshold.

    `bayes`, `fano` (one token), `tokens` (n tokens, as if independent), `support` (one token, against the
    support), and the attacks by name; without those that were not measured or are not finite."""
    found = {}

    def known(name: str) -> float | None:
        value = values.get(name)
        return value if value is not None and math.isfinite(value) else None

    if (bayes := known("marginal/bayes_accuracy")) is not None:
        found["bayes"] = bayes
    if (pooled := known("marginal/pooled")) is not None:
        found["fano"] = fano_accuracy_bound(pooled, prior=prior)
        if tokens is not None:
            many = information_of_tokens(pooled, tokens, prior=prior)
            found["tokens"] = fano_accuracy_bound(many, prior=prior)
    if (support := known("marginal/support")) is not None:
        found["support"] = fano_accuracy_bound(support, prior=prior)
    for attack in DETECTORS:
        if (advantage := known(f"privacy/{advantage_of(attack)}")) is not None:
            found[attack] = accuracy_of_advantage(advantage)
    return found


def bound(runs: list[RunData]) -> Plot | None:
    """Of one run: bounds as lines over training steps, detectors as points; before, now and gold beside."""
    made = results(comparison_rows(runs))
    if len(made) != 1 or made[0].seeds:
        return None
    run, prior = made[0].run, float(made[0].run.setting("metrics.prior") or 0.5)
    items, targets = (run.data.get("forget", {}).get(name) for name in ("items", "targets"))
    tokens = float(targets) / float(items) if items and targets else None  # the mean of a forget item
    steps = [(int(row["step"]), accuracies(row, tokens, prior)) for row in run.eval_rows if "step" in row]
    steps = [(step, found) for step, found in steps if "fano" in found]
    ends = {}
    for role in [role for role in MARKS if role in run.models]:
        values = {name: estimate.value for name, estimate in run.models[role].metrics.items()}
        if "fano" in (found := accuracies(values, tokens, prior)):
            ends[role] = found
    seen = {name for found in [*(found for _, found in steps), *ends.values()] for name in found}
    if seen.isdisjoint(DETECTORS):
        return None
    lines: dict[str, DrawnLine] = {
        "tokens": ("ink", "-", f"n tokens, Fano (n = {tokens:.1f})" if tokens else ""),
        "fano": ("run0", "-", "one token, Fano"),
        "bayes": ("run0", style.DASHED, "one token, Bayes (best possible)"),
        "support": ("run5", "-", "one token against the support, Fano"),
    }
    with style.draw_on(3.6, columns=1 + bool(steps)) as (figure, axes):
        if steps:
            _draw_along(axes[0], steps, lines)
        _draw_beside(axes[-1], ends, lines)
        svg = style.to_svg(figure, "bounds and detectors by training step")
    legend = [
        Key(label=lines[name][2], colour=lines[name][0], shape="line") for name in lines if name in seen
    ]
    legend += [
        Key(label=f"{ATTACKS[attack].label}, best threshold", colour=colour)
        for attack, colour in DETECTORS.items()
        if attack in seen
    ]
    legend += [
        Key(label=MARKS[role][1], colour=_colour_of(role), shape=style.SHAPES.get(role, "dot"))
        for role in ends
    ]
    above = _above(ends)
    caption = (
        "Lines: how often a detector can be right at most, by the information of one token, and of the n "
        "tokens of an answer as if they were independent. Points: how often the best threshold of a "
        "membership score is right, of forget and unseen answers in equal parts; it is chosen on the same "
        "items. The two are not of one question: a line asks whether the forget data took part in a mean "
        f"prediction, a point whether a whole answer was learned. {above}"
    )
    return Plot(svg=svg, caption=caption.strip(), legend=legend)


DrawnLine = tuple[str, Any, str]
"""Of a bound: CSS variable, style and label."""


def _draw_along(
    axis: Axes, steps: list[tuple[int, dict[str, float]]], lines: Mapping[str, DrawnLine]
) -> None:
    for name, (colour, line, _) in lines.items():
        if path := [(step, found[name]) for step, found in steps if name in found]:
            axis.plot(*zip(*path, strict=True), color=COLOURS[colour], linestyle=line)
    for attack, colour in DETECTORS.items():
        if path := [(step, found[attack]) for step, found in steps if attack in found]:
            axis.plot(*zip(*path, strict=True), "o", color=COLOURS[colour], markersize=4)
    axis.axhline(0.5, color=COLOURS["muted"], linewidth=0.9, linestyle=style.DASHED)
    axis.set_xlabel("step")
    axis.set_ylabel("accuracy, watched sample")
    style.plain_numbers(axis, "x", ticks=6, whole=True)
    style.plain_numbers(axis, "y", ticks=6)


def _draw_beside(axis: Axes, ends: Mapping[str, dict[str, float]], lines: Mapping[str, DrawnLine]) -> None:
    names = [name for name in (*lines, *DETECTORS) if any(name in found for found in ends.values())]
    for role, found in ends.items():
        values = [(found[name], place) for place, name in enumerate(names) if name in found]
        axis.plot(*zip(*values, strict=True), MARKS[role][0], color=COLOURS[_colour_of(role)], markersize=6)
    style.name_lines(axis, [lines[name][2] if name in lines else ATTACKS[name].label for name in names])
    axis.axvline(0.5, color=COLOURS["muted"], linewidth=0.9, linestyle=style.DASHED)
    axis.set_xlabel("accuracy, whole sets")
    style.plain_numbers(axis, "x", ticks=6)


def _colour_of(role: str) -> str:
    return {"target": "before", "gold": "gold"}.get(role, "run0")


def _above(ends: Mapping[str, dict[str, float]]) -> str:
    """Which models some detector tells better than a bound of them allows."""
    told = []
    for role, found in ends.items():
        best = max((found[name] for name in DETECTORS if name in found), default=0.0)
        for name, words in (("fano", "one token's bound"), ("tokens", "n tokens' bound")):
            if name in found and best > found[name]:
                told.append(f"{MARKS[role][1]}: above {words}")
    return f"Detectors lie above a line ({'; '.join(told)})." if told else "No detector lies above a line."
