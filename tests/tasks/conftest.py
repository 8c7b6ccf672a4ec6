"""Reports of these tests hold figures that are made once and not drawn."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _undrawn(undrawn_figures: None) -> None:
    """test_unlearn_smoke.py does without, so that the figures of every loss are made."""
