"""`mari requests`: what was asked and done, and which models still hold it, by manifests alone."""

import shutil
from pathlib import Path

import pytest

from mari_cli.storage.hashing import content_hash
from mari_cli.storage.json_files import atomic_write_json, json_text
from mari_cli.storage.manifest import read_manifest
from mari_cli.storage.run import Run
from mari_cli.tasks.requests import requests

HELD = "still holds it"


class Archive:
    """Runs that are only their manifests, each made from another one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        name: str,
        task: str,
        *,
        start: str | None = None,
        final: str | None = None,
        records: tuple[str, ...] = (),
        ids: tuple[str, ...] = (),
        parent: str | None = None,
        corpora: str = "both",
        kept: int = 3,
        adapters: str | None = None,
        finished: bool = True,
    ) -> None:
        config = f"task: {task}\nrequest:\n  id: {','.join(ids) or 'null'}\n  note: by post\n"
        run = Run.create(self.root / name, config, command=["mari", task], task=task)
        if not finished:
            return
        role = "unlearned" if task == "unlearn" else "model"
        lineage = {}
        if parent:
            sha256 = read_manifest(self.root / parent)["sha256"]
            lineage = {"model": {"run": str(self.root / parent), "manifest": sha256}}
        about = {
            "request": {"ids": list(ids), "note": "by post" if ids else None},
            "forget_records": list(records),
            "start": {"model": parent or "somewhere", "revision": None, "weights": start},
            "lineage": lineage,
            "config": {"corpora": corpora} if task == "finetune" else {},
            "task": task,
            "loss": "npo" if task == "unlearn" else None,
            "created": "2026-01-01T00:00:00+00:00",
            "models": {role: final} | ({"target": start} if task == "unlearn" else {}),
            "adapters": {"sha256": "0", "base": adapters} if adapters else None,
            "training": None if task == "evaluate" else {"steps": 3, "kept_step": kept, "stopped_by": None},
        }
        run.finish({"task": task, "models": {}}, about)

    def told(self, id: str) -> dict[str, str]:
        lines, notes = requests([self.root])
        assert notes == []
        return {Path(line.run).name: line.state for line in lines if line.request == id}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    found = Archive(tmp_path)
    found.run("target", "finetune", start="base", final="t", records=("a", "b", "c"))
    found.run("done", "unlearn", start="t", final="u", records=("a", "b"), ids=("R1",), parent="target")
    return found


def test_the_model_that_it_was_removed_from_still_holds_it(archive):
    assert archive.told("R1") == {"done": "unlearned (npo)", "target": f"{HELD}: it was trained on it"}


def test_the_model_that_the_first_of_two_requests_began_with_holds_the_second_one_too(tmp_path):
    found = Archive(tmp_path)
    found.run("first", "unlearn", start="s", final="u1", records=("a",), ids=("R1",))
    found.run("second", "unlearn", start="u1", final="u2", records=("b",), ids=("R2",), parent="first")
    told = found.told("R2")
    assert told["second"] == "unlearned (npo)"
    assert told["first"].startswith(f"{HELD}: `")
    assert told["somewhere"].startswith(f"{HELD}: `")
    assert set(found.told("R1")) == {"first", "second", "somewhere"}


def test_models_made_from_one_that_holds_it_hold_it(archive):
    archive.run("merge", "finetune", start="t", final="m", records=("x",), parent="target")
    archive.run("other", "unlearn", start="m", final="o", records=("x",), ids=("R2",), parent="merge")
    told = archive.told("R1")
    assert told["merge"].startswith(f"{HELD}: made from")
    assert told["other"].startswith(f"{HELD}: made from")


def test_models_made_from_the_unlearned_one_are_told_as_such(archive):
    archive.run("next", "finetune", start="u", final="n", records=("x",), parent="done")
    archive.run("later", "unlearn", start="n", final="l", records=("y",), ids=("R2",))
    told = archive.told("R1")
    assert told["next"].startswith("made from")
    assert told["later"].startswith("made from")


def test_a_model_that_was_taught_it_again_holds_it(archive):
    archive.run("again", "finetune", start="u", final="n", records=("b",), parent="done")
    assert archive.told("R1")["again"].startswith(HELD)


def test_gold_trained_on_the_rest_does_not_hold_it(archive):
    archive.run("gold", "finetune", start="base", final="g", records=("a",), corpora="retain")
    assert "gold" not in archive.told("R1")


def test_weights_lead_from_run_to_run_where_no_manifest_does(archive):
    archive.run("copy", "unlearn", start="t", final="c", records=("z",), ids=("R2",))
    assert archive.told("R1")["copy"].startswith(HELD)


def test_a_copy_of_a_model_is_not_taken_for_the_model_itself(tmp_path, monkeypatch):
    """As of runs that took no step: they left the weights with which they began."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somewhere").mkdir()
    found = Archive(tmp_path)
    found.run("copy", "unlearn", start="w", final="w", records=("x",), kept=0)
    found.run("done", "unlearn", start="w", final="u", records=("a",), ids=("R1",))
    found.run("other", "unlearn", start="w", final="v", records=("b",))
    assert found.told("R1") == {
        "done": "unlearned (npo)",
        "copy": f"{HELD}: `{tmp_path / 'done'}` began with the same weights",
        "other": f"{HELD}: made from the same weights as `{tmp_path / 'copy'}`",
        "somewhere": f"{HELD}: `{tmp_path / 'done'}` began with it",
    }
    found.run("next", "unlearn", start="w", final="x", records=("c",), parent="copy")
    assert found.told("R1")["next"] == f"{HELD}: made from `{tmp_path / 'copy'}`"


def test_a_part_of_the_request_is_not_the_whole(archive):
    archive.run("part", "unlearn", start="t", final="p", records=("a",), parent="target")
    archive.run("more", "unlearn", start="t", final="q", records=("a", "b", "c"), parent="target")
    told = archive.told("R1")
    assert told["part"].startswith(HELD)
    assert "more" not in told


def test_a_run_that_kept_the_target_has_done_nothing(archive):
    archive.run("nothing", "unlearn", start="t", final="t", records=("a",), ids=("R9",), kept=0)
    told = archive.told("R9")
    assert told.pop("nothing").startswith("not done")
    assert told == {"target": f"{HELD}: it was trained on it"}  # what it began with holds it as before


def test_of_a_request_that_was_not_done_the_chain_before_holds_it(tmp_path):
    archive = Archive(tmp_path)
    archive.run("first", "unlearn", start="t", final="u", records=("a",), ids=("R1",))
    archive.run(
        "second", "unlearn", start="u", final="u", records=("b",), ids=("R2",), parent="first", kept=0
    )
    archive.run("third", "unlearn", start="u", final="v", records=("c",), ids=("R3",), parent="second")
    assert archive.told("R2") == {
        "second": "not done: no step was kept, and the model is the one from before",
        "first": f"{HELD}: `{tmp_path / 'second'}` began with it",
        "third": f"{HELD}: made from `{tmp_path / 'second'}`",
        "somewhere": f"{HELD}: `{tmp_path / 'first'}` began with it",
    }


def test_the_base_of_adapters_holds_it(archive):
    archive.run("lora", "unlearn", start="b", final="l", records=("a",), ids=("R3",), adapters="models/base")
    assert archive.told("R3")["base"].startswith(HELD)


def test_what_was_asked_and_is_not_finished_is_told(archive):
    archive.run("begun", "unlearn", ids=("R5",), finished=False)
    told = archive.told("R5")["begun"]
    assert told.startswith("pending: cut off, and `mari unlearn --resume ")
    assert told.endswith("its target is trained first")


@pytest.fixture
def in_turn(tmp_path: Path) -> Archive:
    """Three requests of one run: the first is done, the second was cut off, the third has not begun."""
    found = Archive(tmp_path)
    found.run("target", "finetune", start="base", final="t", records=("a", "b", "c"))
    config = {"task": "unlearn", "forget": {"requests": 3}, "model": {"path": str(tmp_path / "target")}}
    whole = Run.create(tmp_path / "in-turn", json_text(config), command=["mari"], task="unlearn")
    asked = [{"id": f"0{n}-{key}", "run": f"0{n}-{key}", "records": [key]} for n, key in enumerate("abc", 1)]
    whole.write_json("requests.json", {"requests": asked})
    found.run("in-turn/01-a", "unlearn", start="t", final="u", records=("a",), ids=("01-a",), parent="target")
    second = config | {"model": {"path": str(whole.path / "01-a")}, "request": {"id": "02-b"}}
    second["forget"] = {"requests": 3, "request_number": 2}
    Run.create(whole.path / "02-b", json_text(second), command=["mari"], task="unlearn")
    return found


def test_a_pending_request_is_told_with_the_models_that_hold_it(in_turn):
    lines, notes = requests([in_turn.root])
    assert notes == []
    told = {(line.request, Path(line.run).name): line.state for line in lines}
    goes_on = f"cut off, and `mari unlearn --resume {in_turn.root / 'in-turn'}` goes on"
    assert told["01-a", "01-a"] == "unlearned (npo)"
    assert told["02-b", "02-b"] == f"pending: {goes_on}"
    assert told["03-c", "03-c"] == f"pending: its run has not begun; {goes_on}"
    for request in ("02-b", "03-c"):
        assert told[request, "target"] == f"{HELD}: it was trained on it"
        assert told[request, "01-a"] == f"{HELD}: `{in_turn.root / 'in-turn' / request}` begins with it"


def test_a_request_whose_run_is_running_is_told_as_such(in_turn):
    whole = in_turn.root / "in-turn"
    with Run(whole).held():
        assert in_turn.told("03-c")["03-c"] == "pending: its run has not begun; running"


def test_before_the_first_request_is_done_the_model_of_the_run_holds_all(in_turn):
    whole = in_turn.root / "in-turn"
    for run in ("01-a", "02-b"):
        shutil.rmtree(whole / run)
    for request in ("01-a", "02-b", "03-c"):
        assert in_turn.told(request)["target"].startswith(HELD)


def test_a_model_that_is_no_run_holds_what_a_run_that_was_cut_off_began_with(tmp_path):
    config = json_text({"task": "unlearn", "model": {"path": "models/base"}, "request": {"id": "R1"}})
    Run.create(tmp_path / "cut", config, command=["mari"], task="unlearn")
    lines, _ = requests([tmp_path])
    assert [line.run for line in lines] == [str(tmp_path / "cut"), "models/base"]
    assert lines[1].state == f"{HELD}: `{tmp_path / 'cut'}` begins with it"


def test_of_two_runs_of_one_request_the_first_holds_what_only_the_second_removed(tmp_path):
    found = Archive(tmp_path)
    found.run("first", "unlearn", start="s", final="u1", records=("a",), ids=("R1",))
    found.run("second", "unlearn", start="u1", final="u2", records=("b",), ids=("R1",), parent="first")
    lines, _ = requests([tmp_path])
    states = [line.state for line in lines if Path(line.run).name == "first"]
    assert states == ["unlearned (npo)", f"{HELD}: `{tmp_path / 'second'}` began with it"]


def test_a_manifest_that_was_changed_is_told_and_not_read(archive):
    manifest = read_manifest(archive.root / "done") | {"forget_records": []}
    atomic_write_json(archive.root / "done" / "manifest.json", manifest)
    lines, notes = requests([archive.root])
    assert lines == []
    assert "is damaged" in notes[0]


def test_a_finished_run_without_its_manifest_is_told(archive):
    (archive.root / "done" / "manifest.json").unlink()
    lines, notes = requests([archive.root])
    assert lines == []
    assert len(notes) == 1
    assert "nobody can tell what it did" in notes[0]


def test_a_manifest_with_a_right_hash_and_no_request_is_told_and_not_read(archive):
    run = archive.root / "done"
    content = {k: v for k, v in read_manifest(run).items() if k not in ("sha256", "request")}
    (run / "manifest.json").write_text(json_text({"sha256": content_hash(content), **content}))
    _, notes = requests([archive.root])
    assert ["`request` is not what a run writes there" in note for note in notes] == [True]
