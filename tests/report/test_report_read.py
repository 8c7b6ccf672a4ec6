import json
import math
from pathlib import Path

import pytest
from synthetic_run import write_run

from mari_cli.errors import UserError
from mari_cli.report.read import read_run, read_runs
from mari_cli.storage.run_list import run_directories


def test_a_run_directory_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", name="mari token"))
    assert (run.name, run.task, run.loss) == ("mari token", "unlearn", "mari")
    assert list(run.models) == ["target", "unlearned", "gold"]
    assert run.models["gold"].hash == "hash-of-gold"
    assert run.models["gold"].metrics["privacy/loss_auc"].n == 160
    assert run.training is not None
    assert (run.training.steps, run.training.kept_step) == (120, 100)
    assert [len(run.train_rows), len(run.eval_rows), len(run.items)] == [120, 6, 9 * 160 + 3 * 60]
    assert run.terms == ["marginal_information", "retain_kl"]
    assert run.setting("metrics.prior") == 0.5
    assert run.setting("metrics.nothing") is None
    assert run.data["forget"]["records"] == 160
    assert run.examples[0].keys() >= {"target", "unlearned", "gold"}


def test_null_is_read_as_a_number_that_is_not_finite(tmp_path: Path) -> None:
    def broken(result: dict) -> None:
        result["models"]["unlearned"]["metrics"]["forget/perplexity"] |= {
            "value": None,
            "low": None,
            "high": None,
        }

    estimate = (
        read_run(write_run(tmp_path / "a", edit=broken)).models["unlearned"].metrics["forget/perplexity"]
    )
    assert math.isnan(estimate.value)
    assert estimate.low is None


def test_a_run_may_be_read_with_a_result_that_is_not_written_yet(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").unlink()
    assert read_run(path, result=result | {"name": "soon"}).name == "soon"


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_runs([tmp_path / "nowhere"])


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        read_runs([tmp_path])


def test_a_file_is_refused_with_its_directory_as_hint(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a") / "result.json"
    with pytest.raises(UserError, match="is a file") as error:
        read_runs([path])
    assert error.value.hint == f"did you mean `{tmp_path / 'a'}`?"


def test_an_unfinished_run_is_refused_with_the_way_to_finish_it(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (path / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished") as error:
        read_runs([path])
    assert error.value.hint == f"finish it with `--resume {path}`"


def test_a_result_of_another_format_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", edit=lambda result: result.update(schema_version=7))
    with pytest.raises(UserError, match="format 7, this mari reads format 1"):
        read_run(path)


def test_a_result_without_models_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (path / "result.json").write_text('{"schema_version": 1}')
    with pytest.raises(UserError, match="is not the result of a run"):
        read_run(path)


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (path / "items.jsonl").write_text('{"model": "target", "set": "forget", "item": 0}\n{"model"\n')
    with pytest.raises(UserError, match=r"items.jsonl` is not JSON: line 2"):
        read_run(path)


def test_a_sweep_counts_as_its_finished_jobs_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_run(tmp_path / str(number), without=("items", "steps"))
    (write_run(tmp_path / "3", without=("items", "steps")) / "result.json").unlink()
    assert [path.name for path in run_directories(tmp_path)] == ["1", "2", "10"]


def test_a_run_given_twice_is_read_once(tmp_path: Path) -> None:
    path = write_run(tmp_path / "1", without=("items", "steps"))
    assert len(read_runs([path, tmp_path, path])) == 1
