"""`mari unlearn --nproc 2`: the run of one process; and one error, not a hang, where a process dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, mari
from tiny import TINY
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure

from mari_cli import launch
from mari_cli.cli import main
from mari_cli.errors import UserError
from mari_cli.options import RunOptions
from mari_cli.tasks import together, worker
from mari_cli.tasks.shares import batches, require_whole_shares
from mari_cli.tasks.together import reason_of
from mari_cli.tasks.unlearn import unlearn
from mari_cli.tasks.worker import Refused

LONG = ["train.steps=16", "train.evaluate_every=2", "train.stop.retain_drop=null",
        "train.stop.at_holdout=false", "train.lr=3e-3"]  # fmt: skip


def start(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mari_cli", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def mari_with_forked_workers(words: Sequence[str]) -> None:
    """`mari WORDS`, whose workers have imported torch already."""
    together.LaunchConfig = partial(together.LaunchConfig, start_method="fork")
    mari(words)


def torchrun(words: Sequence[str]) -> None:
    from torch.distributed.run import main

    main(words)


def workers_of(process: int) -> list[int]:
    """Those of its children that multiprocessing has started to work."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if parent == process and "resource_tracker" not in command:
            found.append(int(entry.name))
    return sorted(found)


def wait_for_step(step: int, run: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        path = run / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.005)
    pytest.fail(f"the run ended before step {step} was seen: {process.communicate()[1]}")


def values(result: dict) -> dict[tuple[str, str], float]:
    return {
        (role, name): estimate["value"]
        for role, model in result["models"].items()
        for name, estimate in model["metrics"].items()
        if estimate["value"] is not None
    }


def killed_beside(name, config, options):
    """A worker of which the second is killed, and the first loses it at once."""

    def task(config, options):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        torch.distributed.barrier()

    worker.load_task = lambda name: task
    return worker.work(name, config, options)


def test_of_a_killed_process_and_one_that_lost_it_the_killed_one_is_told(monkeypatch):
    """The launcher looks seldom here, as on a machine with much other work: both could have ended by then."""
    seldom = partial(together.LaunchConfig, start_method="fork", monitor_interval=1.5)
    monkeypatch.setattr(together, "LaunchConfig", seldom)
    monkeypatch.setattr(together, "work", killed_beside)
    config = launch.configured(launch.Experiment("unlearn", [*TINY, "out=nowhere"]))
    with pytest.raises(UserError, match=r"process 1 of 2 was killed \(SIGKILL\); the others were ended"):
        together.run_in_processes("unlearn", config, RunOptions(["mari"], processes=2))


@pytest.mark.slow
def test_a_killed_process_ends_all_with_one_error_and_the_run_goes_on_in_one_process(tmp_path, cache):
    arguments = [*TINY, *LONG, f"cache={cache}"]
    whole = launch.run(
        unlearn, launch.prepare(launch.Experiment("unlearn", [*arguments, f"out={tmp_path / 'whole'}"]))
    )
    cut = tmp_path / "cut"
    words = ["unlearn", "--nproc", "2", *arguments, "train.parallel=fsdp", f"out={cut}"]
    run = Forked(*words, told=tmp_path / "told", program=mari_with_forked_workers)
    run.wait_for_step(cut, 5)
    workers = workers_of(run.process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    killed = time.monotonic()
    run.process.join(60)
    assert time.monotonic() - killed < 20
    assert run.process.exitcode == 2
    errors = run.told.read_text()
    told = [line for line in errors.splitlines() if "error" in line.lower()]
    assert told == ["error: process 1 of 2 was killed (SIGKILL); the others were ended"]
    assert f"`mari unlearn --resume {cut} --nproc 2` goes on" in errors
    assert "Traceback" not in errors
    assert "torch/" not in errors  # nor do its launcher or FSDP warn of anything
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert json.loads((cut / "environment.json").read_text())["processes"] == 2

    resumed = launch.run(unlearn, launch.resume("unlearn", cut))
    assert resumed["training"]["steps"] == 16
    assert values(resumed) == pytest.approx(values(whole), rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_a_run_that_is_told_to_end_ends_all_its_processes_and_says_how_to_go_on(tmp_path, cache):
    """As a scheduler does whose time is up."""
    out = tmp_path / "run"
    process = start("unlearn", "--nproc", "2", *TINY, *LONG, f"cache={cache}", f"out={out}")
    wait_for_step(1, out, process)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith(f"interrupted; `mari unlearn --resume {out}` goes on\n")
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.slow
def test_torchrun_starts_the_same_run_and_only_the_first_process_speaks(tmp_path, cache):
    arguments = [*TINY, f"cache={cache}"]
    alone = launch.run(
        unlearn, launch.prepare(launch.Experiment("unlearn", [*arguments, f"out={tmp_path / 'alone'}"]))
    )
    script = tmp_path / "script.py"
    script.write_text(
        "from mari_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )
    workers = ["--nproc-per-node", "2", "--start-method", "fork", "--run-path", str(script)]
    words = [*workers, "unlearn", *arguments, f"out={tmp_path / 'both'}"]
    run = Forked(*words, told=tmp_path / "told", program=torchrun)
    run.finish()
    assert run.told.with_suffix(".out").read_text().count("report.html") == 1
    result = json.loads((tmp_path / "both" / "result.json").read_text())
    assert values(result) == pytest.approx(values(alone), rel=1e-3, abs=1e-4)


def died(tmp_path: Path, monkeypatch, rank: int, error: Exception) -> ProcessFailure:
    """A process that ended by ``error``, as torch's launcher hears of it."""
    file = tmp_path / f"{rank}.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    try:
        raise error
    except type(error) as raised:
        ErrorHandler().record_exception(raised)
    return ProcessFailure(local_rank=rank, pid=1, exitcode=1, error_file=str(file))


def test_what_one_process_refuses_is_told_as_it_was_said_whatever_befell_the_others(tmp_path, monkeypatch):
    cfg = launch.parse(launch.compose(launch.Experiment("unlearn")))
    lost = died(tmp_path, monkeypatch, 0, RuntimeError("Connection closed by peer"))
    words = ["the disk of `this` machine is full", "free some space"]
    said = died(tmp_path, monkeypatch, 1, Refused(json.dumps(words)))
    reason = reason_of(ChildFailedError("", {0: lost, 1: said}), 2, cfg)
    assert isinstance(reason, UserError)
    assert [str(reason), reason.hint] == words
    other = reason_of(ChildFailedError("", {0: lost}), 2, cfg)
    assert isinstance(other, RuntimeError)
    assert str(other).startswith("process 0 of 2 failed\n")
    assert "Connection closed by peer" in str(other)


def test_a_batch_that_processes_cannot_share_is_refused_with_the_nearest_that_they_can(
    tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    arguments = ["mari", "unlearn", "--nproc", "2", "train.forget_batch=15", f"out={out}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: `train.forget_batch=15` on 2 processes: each takes an equal share of a step\n"
        "  hint: use `train.forget_batch=14` or `train.forget_batch=16`, or 1 process\n"
    )
    assert not out.exists()
    with pytest.raises(UserError) as refused:
        require_whole_shares({"train.batch_size": 3}, 4)
    assert refused.value.hint == "use `train.batch_size=4`, or 3 processes"
    with pytest.raises(UserError, match="`a=6` and `b=9` on 4 processes") as refused:
        require_whole_shares({"a": 6, "b": 9, "c": 12}, 4)
    assert refused.value.hint == "use `a=4` or `a=8`, `b=8` or `b=12`, or 3 processes"


def test_the_batch_of_a_target_that_is_trained_first_is_shared_too():
    config = launch.configured(launch.Experiment("unlearn", [*TINY, "finetune.batch_size=6"]))
    assert batches(config)["finetune.batch_size"] == 6
    ready = launch.configured(launch.Experiment("unlearn", [*TINY, "target=as_is"]))
    assert set(batches(ready)) == {"train.forget_batch", "train.retain_batch"}


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_gpus_end_where_one_does(parallel, tmp_path, cache):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    arguments = [*TINY, f"cache={cache}", "train.precision=float32", "finetune.precision=float32"]
    alone = launch.run(
        unlearn, launch.prepare(launch.Experiment("unlearn", [*arguments, f"out={tmp_path / 'alone'}"]))
    )
    both = tmp_path / "both"
    process = start("unlearn", "--nproc", "2", *arguments, f"train.parallel={parallel}", f"out={both}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    result = json.loads((both / "result.json").read_text())
    assert values(result) == pytest.approx(values(alone), rel=1e-3, abs=1e-4)
