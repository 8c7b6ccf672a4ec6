"""The shape of the source does not grow back: limits on what experiments/house/measure.py counts."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "house" / "measure.py"
FRAMES = 12
"""Own frames from `mari unlearn` to the first logits of a step."""
LONGEST = 499
"""Lines of a file."""
PAIRS = 3
"""Pairs of functions that differ in a verb's ending."""


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("loss", ["mari", "npo"])
def test_a_run_is_short(house, loss):
    frames = house.frames_to_first_logits(f"loss={loss}")
    assert len(frames) <= FRAMES, "\n".join(frames)
    assert frames[0].endswith(":unlearn")


def test_a_file_is_one_idea(house):
    assert not {file for file, lines in house.lines_of_files().items() if lines > LONGEST}


def test_a_name_means_one_thing(house):
    assert not house.names_with_two_meanings()
    assert not house.renamed_classes()
    assert len(house.participle_pairs()) <= PAIRS
