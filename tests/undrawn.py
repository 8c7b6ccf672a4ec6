"""Figures that are made and not drawn: to draw takes half of the time of a tiny run. tests/report draws."""

from collections.abc import Callable, Iterator
from html import escape

from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from mari_cli.report.plots.style import Plot
from mari_cli.report.read import RunData

Draw = Callable[[list[RunData]], Plot | None]


def to_svg(figure: Figure, label: str) -> str:
    """The words of ``figure``, one after another."""
    assert figure.axes
    words = [text.get_text() for text in texts_in(figure)]
    formatters = [axis.get_major_formatter() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    words += [word for ticks in formatters if isinstance(ticks, FixedFormatter) for word in ticks.seq]
    written = "".join(f"<text>{escape(word)}</text>" for word in dict.fromkeys(words) if word)
    return f'<svg role="img" aria-label="{escape(label)}">{written}</svg>'


def texts_in(artist: Artist) -> Iterator[Text]:
    """The texts in ``artist``. Of an axis these are its label and the ticks that have been given names: an
    axis that is asked for its texts makes all its other ticks, which say nothing before they are drawn."""
    for child in artist.get_children():
        if isinstance(child, Axis):
            yield child.label
            for tick in vars(child).get("majorTicks", ()):
                yield tick.label1
        elif isinstance(child, Text):
            yield child
        else:
            yield from texts_in(child)


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
