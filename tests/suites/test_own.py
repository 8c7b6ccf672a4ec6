"""The example of a suite of one's own is one that runs."""

import json
import textwrap
from pathlib import Path

import pytest

from mari_cli import launch
from mari_cli.config import Device, ModelConfig, OwnSuite, Precision
from mari_cli.errors import UserError
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.suites import own
from mari_cli.tasks.evaluate import evaluate

CITIES = "France\tParis\nNorway\tOslo\nPeru\tLima\n"


def examples() -> tuple[str, str]:
    """The indented blocks of the docstring: a Python file and a YAML one."""
    blocks, block = [], []
    for line in [*own.__doc__.splitlines(), "."]:
        if line.startswith("    ") or (not line and block):
            block.append(line)
        elif block:
            blocks.append(textwrap.dedent("\n".join(block)).strip() + "\n")
            block = []
    code, yaml = blocks
    return code, yaml


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Path:
    code, yaml = examples()
    (tmp_path / "capitals.py").write_text(code)
    (tmp_path / "capitals.yaml").write_text(yaml)
    (tmp_path / "capitals.tsv").write_text(CITIES)
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64}
    config = ModelConfig(name="tiny", architecture=shape, tokenizer="train")
    compute = choose_compute(Device.cpu, Precision.float32)
    load_model(config, train_tokenizer([CITIES], 300), compute, seed=0).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ["model.path=model", "metrics=fast", "cache=cache"]


def test_the_example_in_the_documentation_is_a_whole_suite(workshop):
    experiment = launch.Experiment("evaluate", [*WORDS, "out=run"], file=Path("capitals.yaml"))
    result = launch.run(evaluate, experiment).result
    metrics = result["models"]["model"]["metrics"]
    assert metrics["capitals/recalled"] | {"low": 0, "high": 0} == {"value": 0, "n": 3, "low": 0, "high": 0}
    assert metrics["capitals/answer_nll"]["low"] < metrics["capitals/answer_nll"]["high"]
    assert "no gold model was asked" in result["notes"]
    rows = [json.loads(line) for line in (workshop / "run" / "items.jsonl").read_text().splitlines()]
    assert [row["suite"] for row in rows] == ["capitals"] * 3
    report = (workshop / "run" / "report.html").read_text()
    assert "capitals" in report
    assert "answer nll" in report


def test_it_is_chosen_from_the_command_line_too(workshop):
    chosen = ["suite=own", "suite.code=capitals.py", "suite.path=capitals.tsv"]
    chosen += ["+suite.settings.max_new_tokens=4", "out=run"]
    result = launch.run(evaluate, launch.Experiment("evaluate", [*WORDS, *chosen])).result
    assert result["models"]["model"]["metrics"]["capitals/recalled"]["n"] == 3
    # what config.yaml holds is read again as the suite that it is
    assert isinstance(launch.load_run_config(workshop / "run").suite, OwnSuite)


@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        (None, "`suite.code` is not set", "Python file"),
        ("capitols.py", "no such file", "did you mean `capitals.py`?"),
        ("capitals.tsv", "is no Python file", "help"),
        ("empty.py", "has no function `load`", "help"),
        ("half.py", "is no suite: it has no `describe`, `summarise`", "help"),
    ],
)
def test_what_is_no_suite_is_refused(workshop, code, error, hint):
    (workshop / "empty.py").write_text("")
    half = "class Half:\n    name = 'half'\n    def examine(self, examiner): ...\n"
    (workshop / "half.py").write_text(f"{half}def load(config): return Half()\n")
    with pytest.raises(UserError) as refused:
        own.load(OwnSuite(name="own", code=code))
    assert error in str(refused.value)
    assert hint in refused.value.hint
