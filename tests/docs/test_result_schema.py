"""result.json is what its schema says, and the schema says something."""

import copy
import json
import re
from importlib import resources

import pytest
from schema import problems

from mari_cli.report.read import SCHEMA_VERSION
from mari_cli.search.aim import BESIDE

DOCS = resources.files("mari_cli.docs")
SCHEMA = json.loads(DOCS.joinpath("result.schema.json").read_text(encoding="utf-8"))
RESULT = {
    "schema_version": 1,
    "task": "unlearn",
    "name": "npo",
    "loss": "npo",
    "command": ["mari", "unlearn"],
    "created": "2026-01-01T00:00:00+00:00",
    "seconds": 1.5,
    "models": {
        "unlearned": {
            "metrics": {"forget/answer_nll": {"value": None, "n": 3, "low": None, "high": None}},
            "hash": "00",
        }
    },
    "training": None,
    "notes": [],
}


def changed(path: str, value: object) -> dict:
    result = copy.deepcopy(RESULT)
    *parents, last = path.split(".")
    place = result
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return result


def test_a_result_in_order_has_no_problems():
    assert problems(RESULT, SCHEMA) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("schema_version", 2, "2 is not 1"),
        ("models", None, "`models` is missing"),
        ("task", "train", "none of"),
        ("seconds", -1, "less than 0"),
        ("loss", 3, "no string or null"),
        ("notes", [1], "notes[0]: 1 is no string"),
        ("models.attacker", {"metrics": {}, "hash": ""}, "`attacker` is not known"),
        ("models.unlearned.hash", None, "`hash` is missing"),
        ("models.unlearned.metrics.x", {"value": 1.0, "n": 3, "low": 0.0}, "`high` is missing"),
        ("models.unlearned.metrics.x", {"value": 1.0, "n": 3.5, "low": 0.0, "high": 1}, "no integer"),
        (
            "models.unlearned.metrics.x",
            {"value": 1, "n": 3, "low": 0, "high": 1, "sd": 1},
            "`sd` is not known",
        ),
        ("training", {"steps": 3}, "`kept_step` is missing"),
    ],
)
def test_what_is_wrong_with_a_result_is_found(path, value, says):
    found = problems(changed(path, value), SCHEMA)
    assert any(says in problem for problem in found), found


def test_a_field_may_be_added_within_a_version():
    assert problems(RESULT | {"suite": "tofu"}, SCHEMA) == []


def test_schema_and_reader_agree_on_version_and_roles():
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert set(SCHEMA["properties"]["models"]["properties"]) == set(BESIDE)


def test_the_page_about_results_names_every_field():
    page = DOCS.joinpath("result.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^    (\w+) {2,}", page, flags=re.MULTILINE))
    assert set(SCHEMA["required"]) <= told
    assert all(field in page for field in SCHEMA["$defs"]["training"]["required"])
