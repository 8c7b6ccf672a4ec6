"""The definitions of the metrics that a report shows, as HTML to stand at its end."""

from collections.abc import Iterable
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markupsafe import Markup

from mari_cli.docs.pages import Page, page_about, proof_page, statistics_page


@dataclass(frozen=True)
class Definition:
    """``anchor`` is unique in a report; ``html`` is the page without its title."""

    anchor: str
    title: str
    html: Markup


def anchor_of(metric: str) -> str | None:
    """Where a report explains the metric of that full name; None where nobody does."""
    page = page_about(metric)
    return _anchor(page) if page else None


STATISTICS = "about-statistics"
"""Where a report explains intervals and differences."""
WHAT_IT_PROVES = "about-what_it_proves"
"""Where a report says what it shows, and what not."""


def definitions(metrics: Iterable[str]) -> list[Definition]:
    """Of these metrics by full name, each page once; last those about all."""
    pages = {page.name: page for name in metrics if (page := page_about(name))}
    return [_definition(page) for page in (*pages.values(), statistics_page(), proof_page())]


def _anchor(page: Page) -> str:
    return f"about-{page.name}"


def _definition(page: Page) -> Definition:
    """Tags in a page's text are escaped; a report has its own headings above these."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(page.text)
    end_of_title = next(i for i, token in enumerate(tokens) if token.type == "heading_close") + 1
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{int(token.tag[1:]) + 2}"
    html = reader.renderer.render(tokens[end_of_title:], reader.options, {})
    return Definition(_anchor(page), page.title, Markup(html))
