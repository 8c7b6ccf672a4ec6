"""Jobs that end without a value: the sweep goes on and tells them."""

import os
import signal
from pathlib import Path

import pytest

from mari_cli import launch
from mari_cli.errors import UserError
from mari_cli.launch import Experiment, Failed, lost_jobs

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def die_on_seed_one(cfg, options):
    if cfg.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return cfg.seed


def sweep(*overrides, seeds="0,1,2"):
    return launch.sweep(
        die_on_seed_one, launch.plan(Experiment("unlearn", [f"seed={seeds}", "out=s", *overrides]))
    )


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of a SLURM that takes jobs and keeps no accounting; each call is a line of `calls`."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def answer(command: str, text: str, status: int = 0) -> None:
        (commands / command).write_text(
            f"#!/bin/sh\necho {command} $* >> {tmp_path}/calls\necho '{text}'\nexit {status}\n"
        )
        (commands / command).chmod(0o755)

    for command in ("srun", "scancel", "squeue"):
        answer(command, "")
    answer("sbatch", "Submitted batch job 7")
    answer("sacct", "Slurm accounting storage is disabled", 1)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr(lost_jobs, "GRACE", 0)
    answer.calls = tmp_path / "calls"
    return answer


def test_a_killed_job_of_submitit_is_a_value_and_the_others_go_on(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    zero, lost, two = sweep("hydra/launcher=submitit_local")
    assert (zero, two) == (0, 2)
    assert "process was killed" in lost.reason
    assert lost.reason.endswith("_0_log.err)")


def test_a_killed_process_of_joblib_ends_no_sweep():
    results = sweep("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", seeds="1,2")
    assert [type(result) for result in results] == [Failed] * 2
    assert "fewer `--jobs`" in results[0].reason


def test_a_job_that_left_the_queue_without_a_result_is_lost(slurm):
    results = sweep("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    assert [type(result) for result in results] == [Failed] * 3


def test_jobs_are_waited_for_while_the_queue_has_them_and_an_interrupt_cancels_all(slurm, monkeypatch):
    slurm("squeue", "7_0 7_1 7_2")
    waited = []

    def interrupt_the_second_time(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(lost_jobs.time, "sleep", interrupt_the_second_time)
    with pytest.raises(launch.Interrupted):
        sweep("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    assert [line for line in slurm.calls.read_text().split("\n") if "scancel" in line] == [
        f"scancel 7_{number}" for number in range(3)
    ]


def test_a_queue_that_does_not_answer_loses_no_job(slurm):
    slurm("squeue", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert lost_jobs._Queue().has("7_0")


def test_what_slurm_refuses_is_one_line(slurm):
    slurm("sbatch", "", 1)
    with pytest.raises(UserError, match="SLURM takes no job of this sweep"):
        sweep("hydra/launcher=submitit_slurm", "hydra.launcher.partition=nowhere")


def test_without_slurm_the_sweep_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="submitit cannot launch here"):
        sweep("hydra/launcher=submitit_slurm")
