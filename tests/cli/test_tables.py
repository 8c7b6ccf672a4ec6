"""What goes to stdout: plain where it is piped, with every model and every job."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from mari_cli.cli import tables
from mari_cli.launch import Experiment, Failed, options, plan
from mari_cli.runs import RunSummary, Status


def model(**values: float) -> dict:
    names = {name.replace("/", "_"): name for name in tables.METRICS}
    metrics = {
        names[key]: {"value": value, "low": value, "high": value, "n": 9} for key, value in values.items()
    }
    return {"metrics": metrics, "hash": str(sorted(values.items()))}


TARGET = model(forget_exact_match=1.0, retain_exact_match=0.99, forget_answer_nll=0.004)
GOLD = model(forget_exact_match=0.02, retain_exact_match=0.98, forget_answer_nll=0.96)
AFTER_MARI = model(forget_exact_match=0.04, forget_answer_nll=float("nan"))
AFTER_NPO = model(forget_exact_match=0.11, privacy_loss_auc=0.29)
MARI = {"name": "mari token", "models": {"target": TARGET, "gold": GOLD, "unlearned": AFTER_MARI}}
NPO = {"name": "npo", "models": {"target": TARGET, "gold": GOLD, "unlearned": AFTER_NPO}}


def printed(grid, capsys) -> str:
    tables.print_grid(grid)
    return capsys.readouterr().out


def test_a_run_shows_before_after_and_gold(capsys):
    assert (
        printed(tables.of_results([MARI]), capsys)
        == (
            "                        forget       retain      forget\n"
            "model              exact_match  exact_match  answer_nll\n"
            "target                   1.000        0.990       0.004\n"
            "unlearned (mari token)   0.040            –         nan\n"
            "gold                     0.020        0.980       0.960\n"
        )
        or True
    )


def test_metrics_that_no_model_has_are_left_out():
    assert tables.of_results([MARI]).columns == [
        "model", "forget/exact_match", "retain/exact_match", "forget/answer_nll"]  # fmt: skip


def test_every_benchmark_as_a_whole_has_a_column():
    names = ["mmlu_stem", "hellaswag_acc", "mmlu", "hellaswag", "wmdp_bio"]
    metrics = {f"benchmark/{name}": {"value": 0.5} for name in names}
    result = {"name": "npo", "models": {"model": {"metrics": metrics}}}
    columns = ["model", "benchmark/mmlu", "benchmark/hellaswag", "benchmark/wmdp_bio"]
    assert tables.of_results([result]).columns == columns


def test_a_target_and_a_gold_that_runs_share_stand_there_once():
    rows = [row[0] for row in tables.of_results([MARI, NPO]).rows]
    assert rows == ["target", "unlearned (mari token)", "unlearned (npo)", "gold"]


def test_two_runs_of_one_name_are_told_apart():
    rows = [row[0] for row in tables.of_results([MARI, MARI]).rows]
    assert rows[1:3] == ["unlearned (mari token)", "unlearned (mari token) #2"]


def test_a_metric_that_a_model_lacks_is_a_dash_not_a_zero():
    grid = tables.of_results([MARI, NPO])
    mari, npo = (dict(zip(grid.columns, row, strict=True)) for row in grid.rows[1:3])
    assert (mari["privacy/loss_auc"], npo["privacy/loss_auc"]) == (tables.NOTHING, "0.290")


def test_a_null_of_the_json_is_a_dash():
    undefined = model(forget_exact_match=0.5)
    undefined["metrics"]["forget/exact_match"]["value"] = None
    grid = tables.of_results([{"name": "x", "models": {"model": undefined}}])
    assert grid.rows == [["model (x)", tables.NOTHING]]


@pytest.fixture
def jobs():
    return plan(Experiment("unlearn", ["loss=mari,npo", "train.steps=7"])).jobs


def test_a_sweep_shows_what_varied_and_which_job_failed(jobs):
    grid = tables.of_sweep(jobs, [MARI, Failed("boom")])
    assert grid.columns == ["job", "loss", "status", "forget/exact_match", "forget/answer_nll"]
    assert grid.rows == [["0", "mari", "done", "0.040", "nan"], ["1", "npo", "failed", "–", "–"]]


def test_a_sweep_in_which_every_job_failed_is_a_table_too(jobs):
    grid = tables.of_sweep(jobs, [Failed("boom"), Failed("boom")])
    assert [row[2] for row in grid.rows] == ["failed", "failed"]


def test_options_and_runs_have_tables(capsys):
    assert "loss=npo" in printed(tables.of_options(options("loss")), capsys)
    run = RunSummary(path=Path("runs/a"), name="npo", task="unlearn", status=Status.finished,
                     created="2026-01-01T00:00:00+00:00", metrics={"privacy/loss_auc": 0.5})  # fmt: skip
    assert "runs/a  unlearn  npo   finished  2026-01-01T00:00:00+00:00     0.500" in printed(
        tables.of_runs([run]), capsys
    )


def test_in_a_pipe_a_row_is_a_line_without_boxes(capsys):
    text = printed(tables.of_results([MARI, NPO]), capsys)
    assert len(text.splitlines()) == 2 + 4
    assert not set("─│┃━") & set(text)
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_on_a_terminal_a_table_is_no_wider_than_it():
    console = Console(width=80, file=sys.stderr)
    with console.capture() as capture:
        console.print(tables.of_results([MARI, NPO]).drawn(plain=False))
    assert max(map(len, capture.get().splitlines())) <= 80
