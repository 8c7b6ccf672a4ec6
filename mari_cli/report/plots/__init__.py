"""The report's figures: each is a pure function of runs that returns one inline SVG."""

from collections.abc import Callable

from mari_cli.report.plots.bound import bound
from mari_cli.report.plots.items import scatter, strips
from mari_cli.report.plots.overview import facts, glance, marginal
from mari_cli.report.plots.style import Plot
from mari_cli.report.plots.suites import roc, truth_ratios
from mari_cli.report.plots.training import approach, loss_curves, trajectory
from mari_cli.report.read import RunData

FIGURES: dict[str, Callable[[list[RunData]], Plot | None]] = {
    "glance": glance,
    "loss_curves": loss_curves,
    "approach": approach,
    "trajectory": trajectory,
    "scatter": scatter,
    "strips": strips,
    "marginal": marginal,
    "bound": bound,
    "recall": facts,
    "truth_ratios": truth_ratios,
    "roc": roc,
}
"""Every figure by the name under which the page places it; a figure is None if a run has nothing to draw."""
