"""Every file that a run reads when it goes on, damaged in every way: it goes on right, or says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_changed import RUNS, everything, runs_cut, workshop  # noqa: F401

from mari_cli import begun, launch
from mari_cli.errors import UserError
from mari_cli.storage.run import Run
from mari_cli.tasks.training import cut_metrics
from mari_cli.train import state


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def another(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "a directory": a_directory,
    "a link to itself": a_link_to_itself,
    "emptied": emptied,
    "truncated": truncated,
    "flipped": flipped,
    "longer": longer,
    "not UTF-8": another(b"\xff\xfe\xfd"),
    "null": another(b"null\n"),
    "a list": another(b"[1, 2]\n"),
    "a number": another(b"5\n"),
    "a word": another(b'"word"\n'),
    "an empty object": another(b"{}\n"),
    "of other types": another(b'{"step": "one", "sha256": 1, "progress": [], "contents": 3, "task": {}}\n'),
    "deep": another(b"[" * 100_000),
}


@pytest.fixture
def run(runs_cut, monkeypatch, tmp_path) -> Path:  # noqa: F811
    """A copy of a fine-tuning that was cut off after its last step."""
    return Path(shutil.copytree(runs_cut("finetune", monkeypatch), tmp_path / "run"))


def weights_of(run: Path) -> str:
    (path,) = (run / "state").glob("step_*/optimizer")
    return state.load_progress(path.parent).weights


def read(run: Path, weights: str) -> tuple[dict, Path | None, list[str], list[dict]]:
    """All that is read of a run before its training goes on."""
    found = Run.unfinished(run)
    config = launch.load_run_config(run)
    begun.require_same(found, begun.Inputs(values=begun.versions(config)))
    with found.held():
        found = Run.resume(run)
        notes = cut_metrics(found, weights)
        return found.about(), state.find(run / "state", weights), notes, found.metrics()


def read_by_a_run(run: Path) -> list[str]:
    names = ["config.yaml", "run.json", "inputs.json", "metrics.jsonl"]
    return names + [str(path.relative_to(run)) for path in (run / "state").rglob("*") if path.is_file()]


def test_what_is_damaged_is_refused_or_passed_over_and_what_is_read_is_right(run, tmp_path):
    weights = weights_of(run)
    whole = read(run, weights)
    names = read_by_a_run(run)
    assert len(names) >= 7
    refused: dict[tuple[str, str], UserError] = {}
    for name in names:
        for damage, do in DAMAGES.items():
            if (name, damage) == ("metrics.jsonl", "flipped"):
                continue  # a digit of a log is not watched
            copy = Path(shutil.copytree(run, tmp_path / "copy"))
            do(copy / name)
            try:
                about, resumed, notes, rows = read(copy, weights)
            except UserError as error:
                refused[name, damage] = error
            else:
                assert about == whole[0]
                assert resumed
                assert resumed.relative_to(copy) == whole[1].relative_to(run)
                # of the log alone something may be lost, and then it is said
                assert rows == whole[3] or notes, (name, damage)
                assert [row for row in whole[3] if row in rows] == rows, (name, damage)
            shutil.rmtree(copy)
    assert all(error.hint and "\n" not in f"{error}{error.hint}" for error in refused.values())
    for name in names:
        if name != "metrics.jsonl":
            assert {damage for other, damage in refused if other == name} == set(DAMAGES), name


def test_a_state_that_is_damaged_gives_way_to_the_one_before(run):
    """As where the machine went down while the last one was written out."""
    (path,) = (run / "state").glob("step_*/optimizer")
    newest = path.parent
    weights = weights_of(run)
    later = newest.with_name("step_99999999")
    shutil.copytree(newest, later)
    assert state.latest(run / "state") == later
    truncated(next((later / "model").glob("*.safetensors")))
    assert state.find(run / "state", weights) == newest
    state.drop_damaged(newest)
    assert not later.exists()
    truncated(newest / "progress.json")
    with pytest.raises(UserError, match=r"the state in `.*` is damaged") as refused:
        state.find(run / "state", weights)
    assert "take it away" in refused.value.hint


def test_without_a_state_the_training_begins_anew_and_ends_with_the_same_bits(run):
    shutil.rmtree(run / "state")
    weights = (run / "checkpoint" / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    emptied(run / "checkpoint" / "model.safetensors")  # it is written again, whatever there is
    for name in ("environment.json", "data.json"):
        (run / name).write_text("[")
    result = launch.run(RUNS["finetune"][0], launch.resume("finetune", run))
    assert result["notes"] == []
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == weights
    again = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("loss") for row in again] == [row.get("loss") for row in rows]


def test_a_log_that_lost_lines_is_noted_and_the_run_goes_on(run):
    (run / "metrics.jsonl").unlink()
    result = launch.run(RUNS["finetune"][0], launch.resume("finetune", run))
    steps = result["training"]["steps"]
    assert result["notes"] == [
        f"`metrics.jsonl` was damaged while the run was interrupted, and lacks {steps} of its steps"
    ]


@pytest.mark.parametrize("name", ["environment.json", "data.json", "examples.json", "report.html"])
def test_a_directory_where_a_file_is_written_is_told_in_two_lines(name, run):
    if (run / name).exists():
        (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(UserError, match=rf"cannot write `.*{name}`: is a directory"):
        launch.run(RUNS["finetune"][0], launch.resume("finetune", run))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": 5}'])
def test_a_damaged_identity_of_a_tracked_run_is_refused(content, tmp_path):
    from mari_cli.tracking.wandb_tracker import _known

    assert _known(tmp_path / "wandb.json") is None
    (tmp_path / "wandb.json").write_text(content)
    with pytest.raises(UserError, match=r"wandb\.json` is damaged"):
        _known(tmp_path / "wandb.json")
