"""`compare` and `runs list` on runs whose files are damaged, in every way: two lines, or a table."""

import json

import pytest
from damage import damage, fresh
from synthetic_run import write_run

from mari_cli.cli import tables
from mari_cli.errors import UserError
from mari_cli.report.read import read_run
from mari_cli.storage.run_list import list_runs
from mari_cli.tasks.compare import compare

FILES = ("result.json", "config.yaml", "data.json", "items.jsonl", "metrics.jsonl", "examples.json",
         "environment.json", "run.json")  # fmt: skip
SEEDS = 45
"""Damages of each file; the first are of all of it."""
COMPARED = ("result.json", "config.yaml", "items.jsonl", "data.json")
"""Of the damages of these the first that leaves a run to read is compared, with a page and figures."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    write_run(folder / "whole", n=6)
    write_run(folder / "other", n=6, method="npo")
    return folder


def refusal(act) -> UserError | None:
    """None where ``act`` did what it should; whatever else it raises fails the test."""
    try:
        act()
    except UserError as error:
        found = error
    else:
        return None
    assert found.hint
    assert "\n" not in f"{found}{found.hint}"
    return found


@pytest.mark.parametrize("file", FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_told_in_two_lines_or_read(root, file):
    compared, refused = file not in COMPARED, 0
    for seed in range(SEEDS):
        run = fresh(root / "whole", root / "run")
        damage(run / file, seed)
        tables.of_runs(list_runs(root))
        if refusal(lambda run=run: read_run(run)):
            refused += 1
        elif seed > 21 and not compared:
            compared = True
            out = root / f"{file}{seed}.html"
            if not refusal(lambda run=run, out=out: compare([run, root / "other"], out)):
                assert out.stat().st_size > 10_000
    assert refused or file == "run.json"  # which only the list reads


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", b"[1, 2]", "`it` is array, not object"),
        ("config.yaml", b"{a: b: c}", "config.yaml` is no config of a run"),
        ("config.yaml", b"\xff", "config.yaml` is not UTF-8"),
        ("config.yaml", b"metrics: {confidence: 2}", "`metrics.confidence` is 2, out of range"),
        ("config.yaml", b"a: &a [1]\n" + b"b: [*a]\n" * 60, "60 aliases"),
        ("data.json", b"5", "data.json` is not as a run writes it"),
        (
            "items.jsonl",
            b'{"model": "target", "set": "forget"}',
            "items.jsonl` line 1 is not as a run writes it",
        ),
        ("metrics.jsonl", b"5\n{}\n", "metrics.jsonl` is damaged: line 1 is no object"),
        (
            "result.json",
            b'{"models": {}, "task": "x", "schema_version": 1}',
            "holds no model that was measured",
        ),
        ("result.json", b"[]", "`it` is array, not object"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(root, file, content, message):
    run = fresh(root / "whole", root / "run")
    (run / file).write_bytes(content)
    refused = refusal(lambda: read_run(run))
    assert message in str(refused)
    assert str(run / file) in str(refused)


def test_a_report_that_cannot_be_written_is_refused_first(root):
    (root / "file").write_text("")
    for out, message in {
        root / "file" / "x.html": "is no directory",
        root / ("x" * 300): "a name in it is too long",
        root / "whole": "is a directory",
        root / "file": "exists already",
    }.items():
        assert message in str(refusal(lambda out=out: compare([root / "none"], out)))


def test_runs_that_were_asked_other_things_are_told_apart(root, tmp_path):
    """A suite on the one side; other corpora; nothing in common at all."""
    write_run(tmp_path / "plain", n=6, without=("suite",))
    told = compare([root / "whole", tmp_path / "plain"]).warnings
    assert told == [
        "Not all runs were asked the same: TOFU of mari (whole) alone. What one was not asked is compared "
        "with nothing."
    ]

    def of_suite_alone(result):
        for model in result["models"].values():
            model["metrics"] = {name: e for name, e in model["metrics"].items() if name.startswith("tofu/")}

    write_run(tmp_path / "suite", n=6, method="npo", edit=of_suite_alone)
    (told,) = compare([tmp_path / "plain", tmp_path / "suite"]).warnings
    assert told.startswith("Not all runs were asked the same: the forget corpus of mari alone; ")
    assert told.endswith("TOFU of npo alone. No metric is of all.")
    data = json.loads((tmp_path / "plain" / "data.json").read_text())
    data["forget"]["sha256"] = "1" * 64
    (tmp_path / "plain" / "data.json").write_text(json.dumps(data))
    assert "forget differs" in compare([root / "whole", tmp_path / "plain"]).warnings[0]
