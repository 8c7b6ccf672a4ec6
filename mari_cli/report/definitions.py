"""The definitions of the metrics of a report, as HTML for its end."""

from collections.abc import Iterable
from functools import cache

from markdown_it import MarkdownIt
from markupsafe import Markup

from mari_cli.docs import pages
from mari_cli.docs.pages import Page, find, page_about

Definition = tuple[str, str, Markup]
"""An anchor, unique in a report, a title, and the page without its title."""


def anchor_of(metric: str) -> str | None:
    """The anchor of a metric's definition in a report; None if no page defines the metric."""
    page = page_about(metric)
    return _anchor(page) if page else None


STATISTICS = f"about-{pages.STATISTICS}"
"""The anchor of the page about intervals and differences."""
WHAT_IT_PROVES = f"about-{pages.WHAT_IT_PROVES}"
"""The anchor of the page about what a report shows, and what it does not."""


def definitions(metrics: Iterable[str]) -> list[Definition]:
    """The pages of ``metrics``, given by full name, each once; the general pages come last."""
    about = {page.name: page for name in metrics if (page := page_about(name))}
    general = map(find, (pages.STATISTICS, pages.WHAT_IT_PROVES))
    return [_definition(page) for page in (*about.values(), *general)]


def _anchor(page: Page) -> str:
    return f"about-{page.name}"


@cache
def _definition(page: Page) -> Definition:
    """A page as HTML. Tags in its text are escaped, and its headings are two levels lower in a report."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(page.text)
    end_of_title = next(i for i, token in enumerate(tokens) if token.type == "heading_close") + 1
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{int(token.tag[1:]) + 2}"
    html = reader.renderer.render(tokens[end_of_title:], reader.options, {})
    return _anchor(page), page.title, Markup(html)
