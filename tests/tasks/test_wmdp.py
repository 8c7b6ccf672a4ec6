"""The experiments on WMDP, from the first line to the report, on invented text and questions."""

import json
import sys
from pathlib import Path

import pytest

from mari_cli import launch
from mari_cli.tasks.unlearn import unlearn

sys.path.append(str(Path(__file__).parents[1] / "suites"))
from benchmark_cases import model, write_folder

EXPERIMENTS = Path(__file__).parents[2] / "experiments" / "wmdp"


@pytest.mark.smoke
@pytest.mark.parametrize("subject", ["cyber", "bio"])
def test_an_experiment_runs_on_invented_data_and_asks_what_should_be_gone(subject, tmp_path, cache):
    model().save(tmp_path / "model")
    for name, words in (("forget", "three one four"), ("retain", "Answer: A two")):
        field = "text" if name == "forget" else "page"
        rows = [json.dumps({field: f"{words} {i}. " * 20}) + "\n" for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    overrides = [
        f"model.path={tmp_path / 'model'}",
        "model.max_length=64",
        "model.lora.rank=2",
        f"forget.path={tmp_path / 'forget.jsonl'}",
        f"retain.path={tmp_path / 'retain.jsonl'}",
        "train.steps=2",
        "train.evaluate_every=2",
        f"metrics.benchmarks=[wmdp_{subject}]",
        f"metrics.benchmark_root={write_folder(tmp_path / 'root')}",
        "metrics.generate=false",
        "metrics.bootstrap=20",
        f"out={tmp_path / 'run'}",
        f"cache={cache}",
    ]
    file = EXPERIMENTS / f"run_{subject}.yaml"
    result = launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", overrides, file=file)))
    asked = {"cyber": 4, "bio": 6}[subject]
    for role in ("target", "unlearned"):
        assert result["models"][role]["metrics"][f"benchmark/wmdp_{subject}"]["n"] == asked
    assert "WMDP" in (tmp_path / "run" / "report.html").read_text()
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").glob("*.*"))
    assert b"Which of these is the right one of" not in written
