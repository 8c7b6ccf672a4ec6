"""A run directory: made once, resumed while unfinished, never written again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_atomic import names, no_file_longer_than

from mari_cli.errors import UserError
from mari_cli.storage.atomic import atomic_write_text
from mari_cli.storage.run import Run
from mari_cli.storage.run_list import Status, list_runs

COMMAND = ["mari", "unlearn", "loss=npo"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "one", "seed: 0\n", command=COMMAND, task="unlearn")


def test_a_run_begins_with_its_config_and_command(run: Run) -> None:
    assert names(run.path) == ["config.yaml", "inputs.json", "run.json"]
    assert (run.path / "config.yaml").read_text() == "seed: 0\n"
    assert run.about()["command"] == COMMAND
    assert run.about()["task"] == "unlearn"
    assert run.about()["created"].endswith("+00:00")
    assert not run.finished


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_output_directory_that_exists_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    match kind:
        case "directory":
            out.mkdir()
        case "file":
            out.write_text("mine")
        case _:
            out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError) as refused:
        Run.create(out, "", command=COMMAND)
    assert str(refused.value) == f"output directory `{out}` exists"
    assert refused.value.hint == "choose another `out=`"
    assert names(tmp_path) == ["out"]


def test_an_unfinished_run_in_the_way_can_be_resumed(run: Run) -> None:
    with pytest.raises(UserError) as refused:
        Run.create(run.path, "seed: 1\n", command=COMMAND)
    hint = f"choose another `out=`, or go on with the unfinished run in it: `--resume {run.path}`"
    assert refused.value.hint == hint
    assert (run.path / "config.yaml").read_text() == "seed: 0\n"


def test_an_output_directory_below_a_file_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make output directory"):
        Run.create(tmp_path / "file" / "out", "", command=COMMAND)


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        Run.resume(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is no run directory: it has no `run.json`"):
        Run.resume(tmp_path)


def test_a_finished_run_is_never_written_again(run: Run) -> None:
    run.append_metrics({"step": 1})
    atomic_write_text(run.path / "state" / "optimizer", "…")
    run.finish({"task": "unlearn", "name": "one"})
    assert run.result() == {"task": "unlearn", "name": "one"}
    assert not (run.path / "state").exists()

    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(UserError, match="is finished, and a finished run is never written again"):
        Run.resume(run.path)
    for write in (
        lambda: run.finish({}),
        lambda: run.write_text("report.html", ""),
        lambda: run.write_json("data.json", {}),
        lambda: run.append_metrics({"step": 2}),
        lambda: run.truncate_metrics(0),
    ):
        with pytest.raises(AssertionError, match="must not be written again"):
            write()
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_the_result_of_an_unfinished_run_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="is not finished"):
        run.result()


def test_resuming_cleans_up_after_killed_writes(run: Run) -> None:
    atomic_write_text(run.path / ".tmp-0a", "half")
    atomic_write_text(run.path / ".tmp-1b" / "step", "3")
    assert Run.resume(run.path) == run
    assert names(run.path) == ["config.yaml", "inputs.json", "run.json"]


def test_a_run_is_one_processs_at_a_time_and_whoever_comes_second_is_told(run: Run) -> None:
    with run.held():
        with pytest.raises(UserError, match=r"run `.*one` is running") as refused, Run(run.path).held():
            pass
        assert refused.value.hint == "wait for its end, or stop it; a new one takes another `out=`"
        with pytest.raises(UserError, match="is running"):  # the same command at the same time
            Run.create(run.path, "seed: 0\n", command=COMMAND)
    with Run(run.path).held():
        pass


@pytest.mark.parametrize("file", ["config.yaml", "run.json", "inputs.json"])
def test_a_run_whose_record_was_edited_does_not_go_on(run: Run, file: str) -> None:
    with (run.path / file).open("a") as opened:
        opened.write(" ")
    if file == "inputs.json":
        (run.path / file).write_text((run.path / file).read_text().replace("a", "b"))
    with pytest.raises(UserError, match=rf"{file}` is (not what run|damaged)"):
        Run.resume(run.path)


def test_a_run_of_a_version_that_kept_no_record_does_not_go_on(run: Run) -> None:
    (run.path / "inputs.json").unlink()
    with pytest.raises(UserError, match=r"it has no `inputs\.json`"):
        Run.resume(run.path)


# -- metrics.jsonl --


def test_metrics_are_one_line_each_and_come_back(run: Run) -> None:
    records = [{"step": 1, "kind": "train", "loss": 0.5}, {"step": 1, "kind": "eval", "note": "a\u2028b"}]
    for record in records:
        run.append_metrics(record)
    assert run.metrics() == records
    assert (run.path / "metrics.jsonl").read_bytes().count(b"\n") == 2


def test_a_metric_that_is_not_finite_is_null(run: Run) -> None:
    run.append_metrics({"step": 1, "loss": float("nan"), "grad_norm": float("-inf")})
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null, "grad_norm": null}\n'


CUT = [b'{"step": 3, "lo', b'{"step": 3}\n{"st', '{"é'.encode()[:-1], b"\0\0\0\n"]


@pytest.mark.parametrize(
    "cut", CUT, ids=["within a line", "after a line", "within a character", "by a crash"]
)
def test_a_line_that_a_kill_has_cut_off_is_dropped_on_resume(run: Run, cut: bytes) -> None:
    for step in (1, 2):
        run.append_metrics({"step": step})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(cut)
    assert [record["step"] for record in run.metrics()][:2] == [1, 2]
    run.truncate_metrics(2)
    run.append_metrics({"step": 3, "again": True})
    assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_whole_last_line_without_its_end_is_kept(run: Run) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    run.truncate_metrics(2)
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_steps_after_the_one_resumed_from_are_dropped(run: Run) -> None:
    for step in (0, 10, 20, 25):
        run.append_metrics({"step": step, "kind": "train"})
        run.append_metrics({"step": step, "kind": "eval"})
    run.append_metrics({"note": "no step of its own"})
    run.truncate_metrics(20)
    assert [record.get("step") for record in run.metrics()] == [0, 0, 10, 10, 20, 20, None]


def test_truncating_metrics_that_were_never_written_does_nothing(run: Run) -> None:
    run.truncate_metrics(0)
    assert run.metrics() == []
    assert names(run.path) == ["config.yaml", "inputs.json", "run.json"]


def test_a_spoilt_line_in_the_middle_is_told_with_its_number(run: Run) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl` is damaged: line 2 is not JSON"):
        run.metrics()


@pytest.mark.parametrize(
    "line", ["5", "null", "[1]", "{}", '{"step": "1"}', '{"step": true}', '{"step": 1, "loss": {}}']
)
def test_a_line_that_no_run_writes_is_told_with_its_number(run: Run, line: str) -> None:
    (run.path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl` is damaged: line 2 is no object of a step"):
        run.truncate_metrics(1)


def test_training_steps_without_a_line_are_counted(run: Run) -> None:
    for step in (1, 2, 4, 5, 6):
        run.append_metrics({"step": step, "kind": "train"})
    assert run.truncate_metrics(5) == 1
    (run.path / "metrics.jsonl").unlink()
    assert run.truncate_metrics(5) == 5
    assert run.truncate_metrics(-1) == 0


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_half(run: Run) -> None:
    run.append_metrics({"step": 1})
    before = (run.path / "metrics.jsonl").read_bytes()
    with no_file_longer_than(100), pytest.raises(UserError, match="cannot write"):
        run.append_metrics({"step": 2, "note": "x" * 1000})
    assert (run.path / "metrics.jsonl").read_bytes() == before


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from mari_cli.storage.run import Run
run = Run.create(Path(sys.argv[1]), "seed: 0", command=["mari"])
held = run.held()
held.__enter__()
for step in itertools.count():
    run.append_metrics({"step": step, "filler": "x" * 5000})
    run.write_json("latest.json", {"step": step})
    if step == 20:
        print("going", flush=True)
"""


def test_a_killed_process_leaves_a_run_to_go_on_with(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"going\n"
        with pytest.raises(UserError, match="is running"), Run(path).held():
            pass
        os.kill(child.pid, signal.SIGKILL)
    with Run(path).held():  # a lock ends with its process
        run = Run.resume(path)
    assert set(names(path)) == {"config.yaml", "run.json", "inputs.json", "metrics.jsonl", "latest.json"}
    latest = json.loads((path / "latest.json").read_text())["step"]
    steps = [record["step"] for record in run.metrics()]
    assert steps == list(range(len(steps)))
    assert latest >= 19
    assert len(steps) - 1 in (latest, latest + 1)
    run.truncate_metrics(10)
    assert len(run.metrics()) == 11


# -- mari runs list --


def test_runs_are_listed_oldest_first_among_foreign_directories(tmp_path: Path) -> None:
    def begin(name: str, created: str) -> Run:
        made = Run.create(tmp_path / name, "", command=COMMAND, task="unlearn")
        made.write_json("run.json", {**made.about(), "created": created})
        return made

    begin("late", "2026-03-01T00:00:00+00:00")
    done = begin("sweep/0", "2026-02-01T00:00:00+00:00")
    measured = {"forget/token_accuracy": {"value": 0.25, "n": 3}, "benchmark/mmlu": {"value": None, "n": 0}}
    models = {"target": {"metrics": {}}, "unlearned": {"metrics": measured}}
    done.finish({"task": "unlearn", "name": "mari token", "loss": "mari", "models": models})
    begin("spoilt", "2026-01-01T00:00:00+00:00").write_text("result.json", "[]")
    atomic_write_text(tmp_path / "foreign" / "result.json", "{}")
    atomic_write_text(tmp_path / ".tmp-1" / "run.json", "{}")

    listed = list_runs(tmp_path)
    assert [(run.name, run.task, run.status, run.loss, run.metrics) for run in listed] == [
        ("spoilt", "", Status.unreadable, "", {}),
        ("mari token", "unlearn", Status.finished, "mari", {"forget/token_accuracy": 0.25}),
        ("late", "unlearn", Status.unfinished, "", {}),
    ]
    assert listed[1].path == tmp_path / "sweep" / "0"


def test_a_root_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "runs") == []
