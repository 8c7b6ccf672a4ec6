"""Figures that are made and not drawn: to draw takes half of the time of a tiny run. tests/report draws."""

from collections.abc import Callable
from html import escape

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from mari_cli.report.plots.style import Plot
from mari_cli.report.read import RunData

Draw = Callable[[list[RunData]], Plot | None]


def to_svg(figure: Figure, label: str) -> str:
    """The words of ``figure``, one after another."""
    assert figure.axes
    words = [text.get_text() for text in figure.findobj(Text)]
    formatters = [axis.get_major_formatter() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    words += [word for ticks in formatters if isinstance(ticks, FixedFormatter) for word in ticks.seq]
    texts = "".join(f"<text>{escape(word)}</text>" for word in dict.fromkeys(words) if word)
    return f'<svg role="img" aria-label="{escape(label)}">{texts}</svg>'


def made_once(draw: Draw) -> Draw:
    """``draw``, but once for all runs of one name that have measured the same."""
    made: dict[tuple, Plot | None] = {}

    def drawn(runs: list[RunData]) -> Plot | None:
        kind = tuple(
            (
                *(run.task, run.name, run.seed, len(run.train_rows), len(run.eval_rows), len(run.items)),
                *((role, *model.metrics) for role, model in run.models.items()),
            )
            for run in runs
        )
        if kind not in made:
            made[kind] = draw(runs)
        return made[kind]

    return drawn
