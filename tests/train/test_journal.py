"""Steps are logged with what they took, one behind where a device works by itself, and refused in time."""

import math
import time
from dataclasses import replace

import pytest
import torch
from steps import GROUPS, LOSSES, gpt2

from mari_cli.config import UnlearnConfig
from mari_cli.losses.objective import build
from mari_cli.train.journal import Journal, Launched, token_seconds
from mari_cli.transfer import Fetched


def launched(step: int, *, loss: float = 1.0, norm: float = 2.0, **changes) -> Launched:
    values = Fetched(torch.tensor([loss, norm], dtype=torch.float64))
    of = Launched(step, ("loss", "grad_norm"), values, 1e-3, 600, time.perf_counter(), None)
    return replace(of, **changes)


def journal(*, behind: int = 0, **changes) -> tuple[Journal, list[dict]]:
    rows: list[dict] = []
    settings = {"token_seconds": None, "loss_scaling": False}
    return Journal(rows.append, behind=behind, **settings | changes), rows


def test_a_row_holds_the_numbers_of_the_step_and_how_fast_it_was():
    about, rows = journal()
    about.add(launched(1, started=time.perf_counter() - 2.0))
    [row] = rows
    assert row["seconds"] == pytest.approx(2.0, abs=0.1)
    assert row["tokens_per_second"] == pytest.approx(600 / row["seconds"])
    assert {key: row[key] for key in row if key not in ("seconds", "tokens_per_second")} == {
        "step": 1, "kind": "train", "loss": 1.0, "grad_norm": 2.0, "lr": 1e-3, "tokens": 600
    }  # fmt: skip


def test_utilisation_and_memory_are_there_where_they_are_known():
    about, rows = journal(token_seconds=1e-3)  # at its peak the device takes 0.6 seconds
    about.add(launched(1, started=time.perf_counter() - 2.0, peak_bytes=2**30))
    assert rows[0]["mfu"] == pytest.approx(0.3, abs=0.02)
    assert rows[0]["peak_bytes"] == 2**30


def test_one_behind_a_step_is_read_when_the_next_is_under_way_and_the_last_when_asked_for():
    about, rows = journal(behind=1)
    for step in (1, 2, 3):
        about.add(launched(step))
        assert [row["step"] for row in rows] == list(range(1, step))
    about.settle()
    about.settle()
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_a_step_begins_where_the_device_is_through_with_the_one_before():
    about, rows = journal(behind=1)
    early = time.perf_counter() - 5.0
    about.add(launched(1, started=early))
    about.add(launched(2, started=early))  # asked for long before the first one's end is seen
    about.settle()
    assert rows[0]["seconds"] > 5
    assert rows[1]["seconds"] < 1


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_and_is_named_with_its_own_step(behind, bad):
    about, rows = journal(behind=behind)
    about.add(launched(1))
    for step in (2, 3):
        assert about.failure is None
        about.add(launched(step, loss=bad, norm=bad))
        if about.failure:
            break
    about.settle()
    assert about.failure == "step 2: loss, gradient not finite; the update was not made"
    assert about.read == 1
    assert [row["step"] for row in rows] == [1]


def test_with_loss_scaling_only_the_gradient_may_be_too_large():
    about, rows = journal(loss_scaling=True)
    about.add(launched(1, norm=math.inf))
    assert (len(rows), about.skipped, about.failure) == (1, 1, None)
    about.add(launched(2, loss=math.nan))
    assert about.failure == "step 2: loss not finite; the update was not made"


def test_ten_skipped_steps_in_a_row_end_it_and_nine_do_not():
    about, rows = journal(loss_scaling=True)
    for step in range(1, 30):
        about.add(launched(step, norm=2.0 if step in (3, 13) else math.inf))
        if about.failure:
            break
    assert about.failure.startswith("steps 14 to 23: the gradient is not finite in float16")
    assert (about.read, about.skipped, len(rows)) == (23, 21, 23)


def test_on_a_cpu_nothing_is_said_of_utilisation():
    assert token_seconds(gpt2(), GROUPS, build(LOSSES["npo"]), UnlearnConfig()) is None
