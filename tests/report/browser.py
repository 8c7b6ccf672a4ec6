"""A headless Chromium for tests of reports, where one is installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium(own: str) -> str | None:
    """MARI_CHROMIUM, else one of the system, else playwright's ``own``; None: there is none."""
    found = [os.environ.get("MARI_CHROMIUM"), *map(shutil.which, NAMES), own]
    return next((place for place in found if place and Path(place).is_file()), None)


@contextmanager
def opened() -> Iterator["Browser"]:
    """Skips, and says why, where there is no browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip(
            "THE REPORT WAS NOT OPENED IN A BROWSER: playwright is not installed (`pip install playwright`)"
        )
    with sync_playwright() as playwright:
        place = chromium(playwright.chromium.executable_path)
        if place is None:
            pytest.skip(
                "THE REPORT WAS NOT OPENED IN A BROWSER: there is no Chromium here "
                "(`apt-get install chromium`, or `playwright install chromium`)"
            )
        browser = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
