"""Every trial of a search between two wishes: as gold on the forget data, and nothing lost of the rest."""

from collections.abc import Sequence
from typing import Any

from mari_cli.report.plots import style
from mari_cli.report.plots.style import COLOURS, RUN_COLOURS, Key, Plot
from mari_cli.report.search import Search, sides

LINEAR = 0.05
"""Below it the axes are linear, above it logarithmic: sides begin at 0 and have no end."""


def pareto(search: Search) -> Plot | None:
    """Distance to gold on the forget data against the loss of what was kept; None without either."""
    points: list[tuple[int, bool, tuple[float, float]]] = []
    for number, method in enumerate(search.methods):
        for trial in method.trials:
            if at := sides(search.read.get(search.directory / trial.run)):
                points.append((number, False, at))
        reported = [at for path in method.reports if (at := sides(search.read.get(path)))]
        if reported:
            mean = tuple(sum(values) / len(reported) for values in zip(*reported, strict=True))
            points.append((number, True, (mean[0], mean[1])))
    if not points:
        return None
    with style.draw_on(4.4) as (figure, [axis]):
        for number, reported_here, (kept, forget) in points:
            colour = COLOURS[f"run{number % RUN_COLOURS}"]
            look: dict[str, Any] = {"ms": 5.5, "mfc": "none", "mec": colour, "mew": 1.3, "zorder": 4}
            if reported_here:
                look = {"ms": 9, "mfc": colour, "mec": COLOURS["paper"], "mew": 0.8, "zorder": 5}
            axis.plot([kept], [forget], "o", clip_on=False, **look)
        front = nondominated([at for _, _, at in points])
        xs, ys = zip(*front, strict=True)
        axis.step(xs, ys, where="post", color=COLOURS["muted"], lw=0.9, ls=style.DASHED, zorder=2)
        axis.plot([0], [0], marker="D", markersize=8, color=COLOURS["gold"], linestyle="none", clip_on=False)
        for scale, which in ((axis.set_xscale, "x"), (axis.set_yscale, "y")):
            scale("symlog", linthresh=LINEAR)
            style.plain_numbers(axis, which)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("what was lost of what should be kept (kept side of the distance to gold)")
        axis.set_ylabel("from gold on the forget data (forget side)")
        svg = style.to_svg(figure, "trials between forgetting as gold and keeping as before")
    caption = f"Hollow: the trials, on seed {search.seed}. "
    if search.report_seeds:
        seeds = ", ".join(map(str, search.report_seeds))
        caption += (
            f"Filled: the best trial of each method, mean over seeds {seeds}, on which nothing was chosen. "
        )
    caption += "Dashed: what no other dominates. The diamond is gold."
    legend = [
        Key(label=method.name, colour=f"run{number % RUN_COLOURS}")
        for number, method in enumerate(search.methods)
    ]
    return Plot(svg=svg, caption=caption, legend=[*legend, Key(label="gold", colour="gold", shape="diamond")])


def nondominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points than which no other is at most as large in both and smaller in one, by the first."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front
