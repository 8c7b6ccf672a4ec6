"""A run's directory while the run is going on: nobody else's, and not left where nothing was done."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from mari_cli import launch
from mari_cli.begun import Inputs
from mari_cli.errors import UserError
from mari_cli.options import RunOptions
from mari_cli.storage import atomic
from mari_cli.storage.run import Run
from mari_cli.tasks import record as record_module
from mari_cli.tasks.record import begin_record, open_run


@pytest.fixture(scope="module")
def config():
    return launch.configured(launch.Experiment("unlearn"))


@pytest.fixture
def begin(config, tmp_path):
    out = tmp_path / "a run"

    def call(*, resume: bool = False):
        inputs = Inputs({"the forget corpus": "1"}, {"numpy": "2"})
        return open_run(replace(config, out=str(out)), RunOptions(["mari"], resume=resume), inputs)

    return out, call


def fail(run: Run, error: BaseException, *, after_a_step: bool = False) -> None:
    run.write_json("data.json", {})
    if after_a_step:
        run.append_metrics({"step": 1, "kind": "train"})
    raise error


def test_a_new_run_that_is_refused_before_its_first_step_leaves_no_directory(begin):
    out, call = begin
    with pytest.raises(UserError, match="no such server"), call() as run:
        fail(run, UserError("no such server", "try another"))
    assert not out.exists()


def test_a_tracker_that_cannot_start_leaves_no_directory(begin, config, monkeypatch):
    out, call = begin

    def dead(*args, **kwargs):
        raise UserError("W&B: cannot start a run: timed out", "check the connection")

    monkeypatch.setattr(record_module, "open_tracker", dead)
    with (
        pytest.raises(UserError, match="timed out"),
        call() as run,
        begin_record(run, config, environment={}, data={}),
    ):
        pass
    assert not out.exists()


@pytest.mark.parametrize("where", [None, "elsewhere/tensors"])
def test_a_full_disk_is_told_and_nothing_is_left_of_a_run_without_a_step(begin, where):
    out, call = begin
    with pytest.raises(UserError) as refused, call():
        raise OSError(errno.ENOSPC, "No space left on device", where)
    assert str(refused.value) == f"cannot write `{where or out}`: no space left on device"
    assert refused.value.hint == "free some space"
    assert not out.exists()


def test_a_full_disk_on_the_way_leaves_what_was_done_and_says_how_to_go_on(begin):
    out, call = begin
    full = atomic.CannotWrite(out / "state", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UserError) as refused, call() as run:
        fail(run, full, after_a_step=True)
    assert refused.value.hint == f"free some space; then `mari unlearn --resume '{out}'` goes on"
    (out / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="something else"), call(resume=True) as run:
        fail(run, UserError("something else"))
    assert out.exists()  # what went on was not begun here


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_run_that_was_interrupted_or_broke_stays_and_goes_on(begin, error):
    out, call = begin
    with pytest.raises(error), call():
        raise error
    with call(resume=True) as run, pytest.raises(UserError, match="is running"), Run(out).held():
        assert run.path == out
    with Run(out).held():
        pass


def test_a_run_of_other_inputs_is_refused_and_nothing_is_changed(begin, config):
    out, call = begin
    with pytest.raises(KeyboardInterrupt), call():
        raise KeyboardInterrupt
    (out / ".tmp-0a").touch()
    before = sorted(out.iterdir())
    inputs = Inputs({"the forget corpus": "2", "the tokens of the forget corpus": "3"}, {"numpy": "3"})
    same = replace(config, out=str(out))
    with pytest.raises(UserError) as refused, open_run(same, RunOptions([], resume=True), inputs):
        pass
    assert str(refused.value).endswith("since it began: the forget corpus and numpy (was 2, is 3)")
    assert refused.value.hint == (
        "put back what it was begun with (`pip install numpy==2`), or start a new run with another `out=`"
    )
    assert sorted(out.iterdir()) == before
    assert Path(out / ".tmp-0a").exists()
