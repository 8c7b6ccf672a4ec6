"""The planted models, made once."""

import planted
import pytest


@pytest.fixture(scope="session")
def world() -> planted.World:
    return planted.plant()
