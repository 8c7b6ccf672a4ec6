"""Pages in Markdown, found by name or by the metrics that they are about.

A page of a metric says in its third line, after `In results:`, under which full names it stands in results,
as patterns; of several pages that fit a name, the one with the longest pattern is about it.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import resources
from typing import Any

from mari_cli.errors import UserError, did_you_mean

STATISTICS = "statistics"
"""The page that is about all metrics."""
WHAT_IT_PROVES = "what_it_proves"
"""The page on what a run shows to whoever answers for the data, and what not."""


@dataclass(frozen=True)
class Page:
    name: str
    text: str

    @property
    def title(self) -> str:
        return self.text.splitlines()[0].removeprefix("# ")

    @cached_property
    def patterns(self) -> list[str]:
        """Full names of the metrics it is about, with `*` for whatever may stand there."""
        line = next((line for line in self.text.splitlines() if line.startswith("In results:")), "")
        return re.findall(r"`([^`]+)`", line)


@cache
def metric_pages() -> dict[str, Page]:
    """Every page of a metric, by its name."""
    files = sorted(_folder().joinpath("metrics").iterdir(), key=lambda file: str(file.name))
    names = [file.name.removesuffix(".md") for file in files if file.name.endswith(".md")]
    return {name: Page(name, _text(f"metrics/{name}.md")) for name in names}


def page_about(metric: str) -> Page | None:
    """The page of the metric with that full name."""
    fitting = [
        (len(pattern), page.name)
        for page in metric_pages().values()
        for pattern in page.patterns
        if fnmatchcase(metric, pattern)
    ]
    return metric_pages()[max(fitting)[1]] if fitting else None


def find(name: str) -> Page:
    """The page of that name, or of the metric with that full name."""
    if name in (STATISTICS, WHAT_IT_PROVES):
        return Page(name, _text(f"{name}.md"))
    page = metric_pages().get(name) or page_about(name)
    if page is None:
        bare = {
            pattern.rpartition("/")[2]: page for page in metric_pages().values() for pattern in page.patterns
        }
        page = bare.get(name)
    if page is None:
        hint = did_you_mean(name, metric_pages(), "`mari metrics` lists them")
        raise UserError(f"no page about `{name}`", hint)
    return page


def _folder() -> Any:
    return resources.files("mari_cli.docs")


def _text(path: str) -> str:
    return str(_folder().joinpath(path).read_text(encoding="utf-8"))
