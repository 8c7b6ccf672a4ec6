"""A figure that is made and not drawn: to draw takes half of the time of a tiny run. tests/report draws."""

from matplotlib.figure import Figure


def to_svg(figure: Figure, label: str) -> str:
    assert figure.axes
    return f'<svg role="img" aria-label="{label}"></svg>'
