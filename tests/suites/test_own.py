"""The example of a suite of one's own is one that runs."""

import json
import textwrap
from pathlib import Path

import pytest

from mari_cli import launch
from mari_cli.config import Device, ModelConfig, OwnSuite, Precision
from mari_cli.errors import UserError
from mari_cli.metrics.statistics import How
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
    result = launch.run(evaluate, launch.prepare(experiment))
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
    result = launch.run(evaluate, launch.prepare(launch.Experiment("evaluate", [*WORDS, *chosen])))
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


LOADS = "def load(config):\n    return Broken()\n"
WHOLE = {
    "name": "name = 'broken'",
    "describe": "def describe(self): return {'all': {'records': 1}}",
    "examine": "def examine(self, examiner): return [{'set': 'all', 'item': 0, 'right': 1.0}]",
    "summarise": "def summarise(self, rows, gold, how): "
    "return Summary({'broken/right': Estimate(value=1.0, n=1)})",
}


def suite_with(**changed: str) -> str:
    members = "".join(f"    {line}\n" for line in (WHOLE | changed).values())
    return (
        "import os, sys\nfrom mari_cli.metrics.estimate import Estimate\n"
        f"from mari_cli.suites.suite import Summary\nclass Broken:\n{members}{LOADS}"
    )


def asked_everything(suite) -> None:
    suite.describe()
    suite.summarise(suite.examine(None), None, How())


def refusal(folder, code) -> UserError:
    (folder / "broken.py").write_text(code)
    with pytest.raises(UserError) as refused:
        asked_everything(own.load(OwnSuite(name="own", code=str(folder / "broken.py"))))
    assert refused.value.hint
    assert "\n" not in str(refused.value)
    return refused.value


def test_a_whole_suite_passes(tmp_path):
    (tmp_path / "broken.py").write_text(suite_with())
    suite = own.load(OwnSuite(name="own", code=str(tmp_path / "broken.py")))
    assert suite.describe() == {"all": {"records": 1}}
    assert suite.summarise(suite.examine(None), None, How()).metrics["broken/right"].value == 1


@pytest.mark.parametrize(
    "does",
    [
        "raise SystemExit(0)",
        "sys.exit('no')",
        "raise RuntimeError('two\\nlines')",
        "1/0",
        "assert False",
        "{}['a']",
    ],
)
@pytest.mark.parametrize("where", ["file", "load", "describe", "examine", "summarise"])
def test_whatever_a_suite_raises_is_told_with_its_line(tmp_path, where, does):
    code = {
        "file": f"import sys\n{does}\n",
        "load": f"import sys\ndef load(config):\n    {does}\n",
    }.get(where) or suite_with(**{where: WHOLE[where].partition(": ")[0] + f": {does}"})
    line = next(number for number, text in enumerate(code.splitlines(), start=1) if does in text)
    told = str(refusal(tmp_path, code))
    assert f"broken.py` line {line} raises " in told


@pytest.mark.parametrize(
    ("member", "gives", "message"),
    [
        ("examine", "None", "gives NoneType, no list of rows"),
        ("examine", "[1]", "gives a row 1 that is no dictionary"),
        ("examine", "[{'set': 'all'}]", "a row 1 without a `set`, its name, or an `item`"),
        ("examine", "[{'set': 'all', 'item': 0, 'said': 'words'}]", "whose `said` is no number but str"),
        ("describe", "{'all': {1, 2}}", "what JSON cannot hold"),
        ("describe", "{'all': 3}", "no mapping of sets"),
        ("summarise", "None", "no `Summary`"),
        ("summarise", "Summary({'other/right': Estimate(value=1.0, n=1)})", "under names as `broken/…`"),
        ("summarise", "Summary({'broken/right': 1.0})", "no `Summary` of `Estimate`s"),
    ],
)
def test_what_a_suite_gives_is_looked_at(tmp_path, member, gives, message):
    code = suite_with(**{member: WHOLE[member].partition(": ")[0] + f": return {gives}"})
    assert message in str(refusal(tmp_path, code))


def test_a_suite_that_is_no_python_says_where(tmp_path):
    assert "broken.py` line 2 raises SyntaxError" in str(refusal(tmp_path, "import os\ndef load(config:\n"))
    assert "has the name" in str(refusal(tmp_path, suite_with(name="name = 'a/b'")))


@pytest.mark.parametrize(
    "chosen", [["suite.kind=nosuch"], ["suite=tofu", "suite.kind=muse"], ["suite.kind=tofu"]]
)
def test_a_kind_is_that_of_its_section(chosen):
    with pytest.raises(UserError, match=r"`suite.kind` is \w+ here"):
        launch.configured(launch.Experiment("evaluate", ["model.path=x", *chosen]))


def test_the_number_of_resamples_has_an_end():
    with pytest.raises(UserError, match=r"`metrics.bootstrap` must be at most 100000"):
        launch.configured(launch.Experiment("evaluate", ["model.path=x", "metrics.bootstrap=1000000000000"]))
