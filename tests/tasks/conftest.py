"""Reports of these tests hold figures that are not drawn."""

from collections.abc import Iterator

import pytest
import undrawn

from mari_cli.report.plots import style


@pytest.fixture(scope="module", autouse=True)
def _undrawn() -> Iterator[None]:
    """test_unlearn_smoke.py does without, so that the figures of every loss are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "to_svg", undrawn.to_svg)
        yield
