"""The real client, offline: what it wrote is read back from its own transaction log."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_log import records

from mari_cli.config import TrackerConfig
from mari_cli.tracking import Tracker, check_tracker, open_tracker


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home without keys, and where the client keeps its caches."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def python(code: str, *arguments: object, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own: the client keeps its session, key and mode per process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NETRC"))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**kept, "HOME": str(home), **variables}
    return subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, timeout=120, cwd=home
    )


def key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def logs(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))


def read(log: Path) -> dict[str, Any]:
    """What a log says, in the words of a tracker."""
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "artifacts": {}, "stats": 0}
    for record in records(log):
        match record.WhichOneof("record_type"):
            case "run":
                found["run"] = record.run
                found["config"] |= {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
            case "history":
                found["history"].append(
                    {key(item): json.loads(item.value_json) for item in record.history.item}
                )
            case "summary":
                found["summary"] |= {key(item): json.loads(item.value_json) for item in record.summary.update}
            case "artifact":
                found["artifacts"][record.artifact.name] = record.artifact
            case "stats":
                found["stats"] += 1
            case "exit":
                found["exit_code"] = record.exit.exit_code
    return found


TRACK = """
import sys
import time
from pathlib import Path
from mari_cli.config import WandbConfig
from mari_cli.tracking import check_tracker, open_tracker

run_dir = Path(sys.argv[1])
run_dir.mkdir()
(run_dir / "report.html").write_text("<html>the report</html>")
(run_dir / "checkpoint").mkdir()
(run_dir / "checkpoint" / "config.json").write_text("{}")
config = WandbConfig(name="wandb", project="forgetting", tags=["a", "b"])
check_tracker(config)
tracker = open_tracker(
    config, run_dir=run_dir, run_config={"loss": {"name": "npo", "beta": 0.1}, "seed": 3}, name=run_dir.name
)
print("a line of the program", flush=True)
tracker.log({"train/loss": 2.5}, step=0)
tracker.log({"train/loss": 1.25, "train/retain_kl": 0.5}, step=1)
tracker.log({"eval/forget/token_accuracy": 0.75}, step=1)
tracker.log({"memorization/extraction_strength": 0.125, "benchmark/mmlu": 0.25}, step=1)
tracker.log({"train/loss": 9.0}, step=0)  # a phase that counts from the beginning again
tracker.summary({"unlearned/forget/token_accuracy": 0.5, "kept_step": 1})
rows = [["forget/token_accuracy", 0.99, None], ["mmlu", 1, "–"]]
tracker.table("result", ["metric", "target", "gold"], rows)
tracker.artifact(run_dir / "report.html", name="report", kind="report")
tracker.artifact(run_dir / "checkpoint", name="checkpoint", kind="model")
time.sleep(1)  # W&B measures the system beside the run: on a busy machine a run may end before that
tracker.finish(3)
tracker.finish(0)
sys.stderr.write(tracker.note)
"""


def test_an_offline_run_says_what_it_was_given_and_nothing_of_the_machine(tmp_path: Path, home: Path) -> None:
    run_dir = tmp_path / "2026-npo"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "--quiet"], cwd=home, check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "theirs"], cwd=home, check=True)
    done = python(TRACK, run_dir, home=home)
    assert (done.returncode, done.stdout) == (0, "a line of the program\n"), done.stderr
    (log,) = logs(run_dir)
    assert done.stderr == (
        f"W&B: offline (auto: no API key is set); upload it with `wandb sync {run_dir}/wandb`"
    )

    found = read(log)
    assert found["run"].project == "forgetting"
    assert found["run"].display_name == "2026-npo"
    assert list(found["run"].tags) == ["a", "b"]
    assert found["run"].run_id == json.loads((run_dir / "wandb.json").read_text())["id"]
    assert found["config"]["loss"] == {"name": "npo", "beta": 0.1}
    assert found["config"]["seed"] == 3
    assert found["exit_code"] == 3
    assert found["stats"] > 0  # system metrics

    values = [{name: value for name, value in row.items() if name[0] != "_"} for row in found["history"]]
    assert values[:5] == [
        {"step": 0, "train/loss": 2.5},
        {"step": 1, "train/loss": 1.25, "train/retain_kl": 0.5},
        {"step": 1, "eval/forget/token_accuracy": 0.75},
        {"step": 1, "memorization/extraction_strength": 0.125, "benchmark/mmlu": 0.25},
        {"step": 0, "train/loss": 9.0},
    ]
    assert found["summary"]["unlearned/forget/token_accuracy"] == 0.5
    assert found["summary"]["kept_step"] == 1

    identity = found["run"].run_id
    report = found["artifacts"][f"report-{identity}"]
    assert report.type == "report"
    assert report.manifest.contents[0].local_path == str(run_dir / "report.html")
    checkpoint = found["artifacts"][f"checkpoint-{identity}"]
    assert [entry.path for entry in checkpoint.manifest.contents] == ["config.json"]
    assert found["artifacts"][f"run-{identity}-result"].type == "run_table"
    (table,) = log.parent.glob("files/media/table/result*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["metric", "target", "gold"],
        "data": [["forget/token_accuracy", 0.99, None], ["mmlu", 1, "–"]],
    }

    # what an upload would send: the log, and the files beside it
    assert [path.name for path in log.parent.glob("files/*")] == ["media"]
    assert found["run"].host == ""
    assert not found["run"].HasField("git")
    # neither the machine's description nor what the program printed
    kinds = {record.WhichOneof("record_type") for record in records(log)}
    assert kinds.isdisjoint({"environment", "output", "output_raw"})


GO_ON = """
import sys
from pathlib import Path
from mari_cli.config import WandbConfig
from mari_cli.tracking import open_tracker

tracker = open_tracker(WandbConfig(name="wandb"), run_dir=Path(sys.argv[1]), run_config={}, name="n")
tracker.log({"train/loss": 1.0}, step=int(sys.argv[2]))
if sys.argv[3] == "die":
    raise RuntimeError("something broke")
tracker.finish(0)
"""


def test_a_resumed_run_goes_on_as_the_same_run(tmp_path: Path, home: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    died = python(GO_ON, run_dir, 1, "die", home=home)
    assert "RuntimeError: something broke" in died.stderr
    assert died.stdout == ""
    (log,) = logs(run_dir)
    first = read(log)
    done = python(GO_ON, run_dir, 2, "end", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    (second,) = [read(other) for other in logs(run_dir) if other != log]
    assert first["run"].run_id == second["run"].run_id
    assert (first["run"].resume, second["run"].resume) == (False, True)
    assert [row["step"] for row in first["history"] + second["history"]] == [1, 2]
    assert first["exit_code"] == 1  # the client saw the exception, though nobody called finish
    assert second["exit_code"] == 0


def test_two_runs_in_one_process_stay_apart(tmp_path: Path, home: Path) -> None:
    code = """
import sys
from pathlib import Path
from mari_cli.config import WandbConfig
from mari_cli.tracking import open_tracker

trackers = []
for name in ("first", "second"):
    run_dir = Path(sys.argv[1]) / name
    run_dir.mkdir(parents=True)
    trackers.append(open_tracker(WandbConfig(name="wandb"), run_dir=run_dir, run_config={}, name=name))
for code, tracker in enumerate(trackers):
    tracker.log({"code": code}, step=0)
    tracker.finish(code)
"""
    done = python(code, tmp_path / "runs", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    for code_, name in enumerate(("first", "second")):
        (log,) = logs(tmp_path / "runs" / name)
        found = read(log)
        assert (found["run"].display_name, found["history"][0]["code"], found["exit_code"]) == (
            name,
            code_,
            code_,
        )


CHECK = """
import sys
from mari_cli.config import WandbConfig, WandbMode
from mari_cli.errors import UserError
from mari_cli.tracking.wandb_tracker import resolve_mode

config = WandbConfig(name="wandb", mode=WandbMode(sys.argv[1]))
try:
    print(*resolve_mode(config), sep="; ")
except UserError as error:
    print(f"error: {error}; hint: {error.hint}")
"""
KEY = "0123456789" * 4
NO_KEY = (
    "error: W&B: no API key for online mode; hint: log in with `wandb login`, or use `tracker.mode=offline`"
)


@pytest.mark.parametrize(
    ("mode", "variables", "answer"),
    [
        ("auto", {}, "offline; auto: no API key is set"),
        ("auto", {"WANDB_API_KEY": KEY}, "online; auto: an API key is set"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline; auto: WANDB_MODE=offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled; auto: WANDB_MODE=disabled"),
        ("auto", {"WANDB_MODE": "online"}, NO_KEY),
        ("online", {}, NO_KEY),
        ("online", {"WANDB_API_KEY": KEY}, "online; tracker.mode=online"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online; tracker.mode=online"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline; tracker.mode=offline"),
    ],
)
def test_the_mode_follows_config_then_environment_then_key(
    home: Path, mode: str, variables: dict[str, str], answer: str
) -> None:
    done = python(CHECK, mode, home=home, **variables)
    assert done.stdout == answer + "\n"
    assert done.stderr == ""
    assert KEY not in done.stdout


def test_a_key_in_netrc_is_found(home: Path) -> None:
    (home / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (home / ".netrc").chmod(0o600)
    assert python(CHECK, "auto", home=home).stdout == "online; auto: an API key is set\n"


def test_a_key_that_is_none_is_refused_early(home: Path) -> None:
    done = python(CHECK, "online", home=home, WANDB_API_KEY="short")
    assert done.stdout.startswith("error: W&B: the API key is not usable: ")
    assert "hint: log in again with `wandb login`" in done.stdout


def test_a_word_that_is_no_mode_is_refused(home: Path) -> None:
    done = python(CHECK, "auto", home=home, WANDB_MODE="sometimes")
    assert done.stdout.startswith("error: W&B: unknown mode `sometimes` in WANDB_MODE; hint: ")


def test_an_online_run_without_a_key_writes_nothing(tmp_path: Path, home: Path) -> None:
    code = """
import sys
from pathlib import Path
from mari_cli.config import WandbConfig, WandbMode
from mari_cli.tracking import open_tracker

config = WandbConfig(name="wandb", mode=WandbMode.online)
open_tracker(config, run_dir=Path(sys.argv[1]), run_config={}, name="n")
"""
    done = python(code, tmp_path, home=home)
    assert "no API key for online mode" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_disabled_client_takes_everything_and_writes_nothing(tmp_path: Path, home: Path) -> None:
    done = python(TRACK, tmp_path / "run", home=home, WANDB_MODE="disabled")
    assert (done.returncode, done.stdout) == (0, "a line of the program\n")
    assert done.stderr == "W&B: disabled (auto: WANDB_MODE=disabled)"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint", "report.html"]


def test_no_tracker_tracks_nothing_and_imports_no_client(tmp_path: Path, home: Path) -> None:
    config = TrackerConfig(name="none")
    check_tracker(config)
    tracker = open_tracker(config, run_dir=tmp_path, run_config={}, name="n")
    assert type(tracker) is Tracker
    tracker.log({"train/loss": 1.0}, step=0)
    tracker.summary({})
    tracker.table("result", ["a"], [[1]])
    tracker.artifact(tmp_path, name="a", kind="b")
    tracker.finish(0)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    done = python("import sys, mari_cli.tracking; print('wandb' in sys.modules)", home=home)
    assert done.stdout == "False\n", done.stderr


ASK = """
import sys
from mari_cli.config import WandbConfig
from mari_cli.errors import UserError
from mari_cli.tracking import check_tracker

try:
    check_tracker(WandbConfig(name="wandb"))
except UserError as error:
    print(f"error: {error}; hint: {error.hint}")
else:
    print("there")
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A port at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_server_that_is_not_there_is_refused_before_anything_else(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    done = python(ASK, home=home, WANDB_API_KEY=KEY, WANDB_BASE_URL=f"http://127.0.0.1:{port}")
    assert "cannot be reached: [errno 111] connection refused; hint: " in done.stdout, done.stderr
    assert "`tracker.mode=offline`" in done.stdout


def test_a_server_that_says_nothing_is_not_waited_for(home: Path, listening: socket.socket) -> None:
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    code = f"import mari_cli.tracking.wandb_tracker as tracker\ntracker.PATIENCE = 0.5\n{ASK}"
    done = python(code, home=home, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    assert f"the server at `{url}` cannot be reached: " in done.stdout, done.stderr


def test_a_server_that_answers_anything_is_there(home: Path, listening: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    done = python(ASK, home=home, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    assert done.stdout == "there\n", done.stderr
