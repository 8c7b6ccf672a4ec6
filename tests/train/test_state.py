"""A training state: whole or not there, and never trusted by half."""

import json
import math
from pathlib import Path

import pytest
import torch

from mari_cli.config import OptimConfig
from mari_cli.errors import UserError
from mari_cli.train import state
from mari_cli.train.optim import Optimizer


@pytest.fixture
def states(tmp_path) -> Path:
    """After step 4, of which those of step 2 are the weights that are kept."""
    optimizer = Optimizer(torch.nn.Linear(4, 4), OptimConfig())
    looks = [{"step": 0, "nll": math.nan}, {"step": 2, "nll": 1.0}]
    for step in (0, 2, 4):
        progress = state.Progress(step=step, kept_step=min(step, 2), history=looks, weights="begun")
        state.save(tmp_path / "state", optimizer, progress)
    return tmp_path / "state"


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.glob("*/*"))


def test_what_no_resume_can_need_is_dropped(states):
    assert names(states) == [
        "step_00000002/model", "step_00000002/progress.json",
        "step_00000004/model", "step_00000004/optimizer", "step_00000004/progress.json",
    ]  # fmt: skip
    assert state.latest(states) == states / "step_00000004"


def test_a_look_that_was_not_finite_comes_back_as_it_was(states):
    (first, _) = state.load_progress(states / "step_00000004").history
    assert math.isnan(first["nll"])


def test_of_other_weights_no_training_goes_on(states):
    assert state.find(states, "begun") == states / "step_00000004"
    with pytest.raises(UserError, match="was trained from other weights than those here now"):
        state.find(states, "others")


@pytest.mark.parametrize("file", ["step_00000002/model", "step_00000002/progress.json",
                                  "step_00000004/model", "step_00000004/optimizer",
                                  "step_00000004/progress.json"])  # fmt: skip
def test_a_part_that_is_damaged_is_seen_before_the_training_goes_on(file, states):
    path = states / file
    path = next(path.iterdir()) if path.is_dir() else path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"the state in `.*state` is damaged"):
        state.latest(states)


def test_progress_of_another_version_is_not_guessed_at(states):
    path = states / "step_00000004" / "progress.json"
    content = json.loads(path.read_text())
    content["progress"]["frozen"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged"):
        state.latest(states)


@pytest.mark.parametrize("kind", ["nothing", "an empty directory", "a file"])
def test_where_no_state_was_written_there_is_none(kind, tmp_path):
    path = tmp_path / "state"
    if kind == "a file":
        path.touch()
        with pytest.raises(UserError, match="is damaged"):
            state.latest(path)
        return
    if kind == "an empty directory":
        path.mkdir()
    assert state.latest(path) is None
