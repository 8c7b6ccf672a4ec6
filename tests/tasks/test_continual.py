"""Requests one after another, end to end: a chain of runs, their matrix, and going on after a kill."""

import json
from importlib import resources
from pathlib import Path

import pytest
from forked import Forked
from schema import problems
from tiny import TINY

from mari_cli import launch
from mari_cli.data.requests import Request
from mari_cli.errors import UserError
from mari_cli.storage.manifest import read_manifest
from mari_cli.tasks.continual import config_of
from mari_cli.tasks.requests import requests
from mari_cli.tasks.unlearn import unlearn
from mari_cli.tasks.verify import exit_code, verify

RUNS = ["01-people-1-to-1", "02-people-2-to-2"]
ARGUMENTS = [
    *TINY,
    "loss=npo",
    "forget.requests=2",
    "gold=each",
    "train.steps=6",
    "train.stop.retain_drop=null",
    "train.stop.at_holdout=false",
    "train.keep=last",
]


def arguments(out: Path, cache: Path) -> list[str]:
    return [*ARGUMENTS, f"out={out}", f"cache={cache}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache) -> Path:
    """Two requests in turn, to the end."""
    out = tmp_path_factory.mktemp("continual") / "whole"
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments(out, cache))))
    return out


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def test_each_request_is_a_run_that_begins_with_the_one_before(whole):
    first, second = (read_manifest(whole / name) for name in RUNS)
    assert second["lineage"]["model"]["manifest"] == first["sha256"]
    assert second["start"]["weights"] == first["models"]["unlearned"]
    assert exit_code(verify(whole)) == exit_code(verify(whole / RUNS[1])) == 0
    lines, notes = requests([whole.parent])
    assert notes == []
    done = {line.request: Path(line.run).name for line in lines if line.state.startswith("unlearned")}
    assert done == dict(zip(RUNS, RUNS, strict=True))
    holders = {
        Path(line.run).name for line in lines if line.request == RUNS[1] and "still holds" in line.state
    }
    assert RUNS[0] in holders


def test_the_matrix_is_of_the_models_that_the_requests_left(whole):
    result = result_of(whole)
    schema = json.loads(resources.files("mari_cli.docs").joinpath("result.schema.json").read_text())
    assert problems(result, schema) == []
    told = "while a request was unlearned, the records of later requests were retain data"
    assert (told in result["notes"], told in result_of(whole / RUNS[0])["notes"]) == (True, False)
    matrix = result["requests"]
    assert matrix["steps"] == ["before", "after 1", "after 2"]
    assert matrix["weights"][0] == result["models"]["target"]["hash"]
    assert matrix["weights"][1] == result_of(whole / RUNS[0])["models"]["unlearned"]["hash"]
    assert matrix["weights"][2] == result["models"]["unlearned"]["hash"]
    rows = {(row["of"], row["metric"]): row["cells"] for row in matrix["rows"]}
    for number, name in enumerate(RUNS, start=1):
        own = result_of(whole / name)["models"]
        cells = rows[str(number), "forget/answer_nll"]
        measured = own["unlearned"]["metrics"]["forget/answer_nll"]
        assert cells[number]["value"]["value"] == pytest.approx(measured["value"], rel=1e-9)
        # the gold model after a request is that of its run
        golds = own["gold"]["metrics"]["forget/answer_nll"]
        assert cells[number]["gold"]["value"] == pytest.approx(golds["value"], rel=1e-9)
    assert {"retain", "holdout"} <= {row["of"] for row in matrix["rows"]}
    page = (whole / "report.html").read_text()
    assert "Request by request" in page
    assert [request["label"] for request in matrix["requests"]] == RUNS
    assert all(f"<td>{name}</td>" in page for name in RUNS)
    assert "its turn = unlearned in this step" in page


def test_a_run_that_is_killed_in_its_second_request_ends_with_the_same_bits(whole, tmp_path, cache):
    cut = tmp_path / "cut"
    Forked("unlearn", *arguments(cut, cache), told=tmp_path / "told").kill_after(cut / RUNS[1], 3)
    assert not (cut / RUNS[1] / "result.json").exists()
    first = (cut / RUNS[0] / "result.json").read_bytes()
    told = {(line.request, Path(line.run).name): line.state for line in requests([cut])[0]}
    assert told[RUNS[1], RUNS[1]] == f"pending: cut off, and `mari unlearn --resume {cut}` goes on"
    assert told[RUNS[1], RUNS[0]].startswith("still holds it")
    launch.run(unlearn, launch.resume("unlearn", cut))
    assert (cut / RUNS[0] / "result.json").read_bytes() == first
    for name in RUNS:
        weights = [(run / name / "checkpoint" / "model.safetensors").read_bytes() for run in (whole, cut)]
        assert weights[0] == weights[1]
    ours, theirs = result_of(whole), result_of(cut)
    assert ours["models"] == theirs["models"]
    assert ours["requests"]["rows"] == theirs["requests"]["rows"]


def test_what_does_not_go_together_is_refused_before_anything_is_written(tmp_path, cache):
    for more, said in (
        (["request.id=R1,R2,R3"], "`request.id` names 3 requests"),
        (["model.lora.rank=2", "model.lora.merge=false"], "adapters of adapters"),
        (["loss=mari_base"], "lies nowhere"),
        (["target=as_is"], "does not fine-tune its target"),
    ):
        out = tmp_path / "refused"
        with pytest.raises(UserError, match=said):
            launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", [*arguments(out, cache), *more])))
        assert not out.exists()


def test_the_support_of_a_request_is_tuned_from_the_model_before_the_fine_tuning(tmp_path):
    model = ["model.path=base", "target=finetune", "forget=fictional", "loss=mari_base", "forget.requests=2"]
    config = launch.configured(launch.Experiment("unlearn", model))
    request = Request(1, "first", [])
    assert config_of(config, request, [request], {}).loss.support.model == "base"
