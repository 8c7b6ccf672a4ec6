"""What goes to stdout: plain where it is piped, with every model and every job."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from mari_cli.cli import tables
from mari_cli.launch import Experiment, Failed, options, plan
from mari_cli.metrics.difference import Difference
from mari_cli.runs import RunSummary, Status
from mari_cli.tasks.compare import merged


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
    assert printed(tables.of_results([MARI]), capsys) == (
        "                             forget       retain      forget\n"
        "model                   exact_match  exact_match  answer_nll\n"
        "target                        1.000        0.990       0.004\n"
        "unlearned (mari token)        0.040            –         nan\n"
        "gold                          0.020        0.980       0.960\n"
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


# -- several seeds ---------------------------------------------------------------------------------


def after(name: str, value: float) -> dict:
    return {"name": name, "models": {"target": TARGET, "unlearned": model(forget_answer_nll=value)}}


@pytest.fixture
def seeded():
    return plan(Experiment("unlearn", ["loss=mari,npo", "seed=0,1,2"])).jobs


def test_jobs_that_only_a_seed_sets_apart_are_one_row_with_mean_and_half_interval(seeded):
    values = [1.0, 1.1, 1.2, 2.0, 2.0, 2.0]
    grid = tables.of_sweep(
        seeded, [after(job.config.loss.name, v) for job, v in zip(seeded, values, strict=True)]
    )
    assert grid.columns == ["job", "loss", "seeds", "status", "forget/answer_nll"]
    assert grid.rows == [
        ["0,1,2", "mari", "3", "done", "1.100±0.248"],  # 4.303 · 0.1 / √3
        ["3,4,5", "npo", "3", "done", "2.000"],
    ]
    assert grid.numbers == 4


def test_a_seed_that_failed_is_counted_and_the_others_stand(seeded):
    results = [after("mari", 1.0), Failed("boom"), after("mari", 1.1), *[Failed("boom")] * 3]
    rows = tables.of_sweep(seeded, results).rows
    assert rows[0][:4] == ["0,1,2", "mari", "2", "2 of 3 done"]
    assert rows[1] == ["3,4,5", "npo", "0", "failed", tables.NOTHING]


def test_a_sweep_over_seeds_alone_is_one_row():
    jobs = plan(Experiment("unlearn", ["seed=4,5"])).jobs
    grid = tables.of_sweep(jobs, [after("mari", 1.0), after("mari", 1.2)])
    assert grid.columns[:3] == ["job", "seeds", "status"]
    assert [row[:3] for row in grid.rows] == [["0,1", "2", "done"]]


def test_seeds_that_go_with_different_methods_stay_apart():
    jobs = plan(Experiment("unlearn", ["seed=4,5", "train.steps=7"])).jobs[:1]
    grid = tables.of_sweep(jobs, [after("mari", 1.0)])
    assert grid.rows == [["0", "4", "done", "1.000"]]


def test_a_method_of_several_seeds_is_a_row_of_results_and_a_shared_target_has_no_seeds():
    both = merged([after("mari", 1.0), after("mari", 1.2)], [0, 1])
    grid = tables.of_results([both, after("npo", 3.0)])
    cells = [dict(zip(grid.columns, row, strict=True)) for row in grid.rows]
    assert [(row["model"], row["seeds"]) for row in cells] == [
        ("target", ""), ("unlearned (mari)", "2"), ("unlearned (npo)", "")]  # fmt: skip
    assert [row["forget/answer_nll"] for row in cells] == ["0.004", "1.100±1.271", "3.000"]
    assert both["models"]["unlearned"]["metrics"]["forget/answer_nll"]["values"] == {0: 1.0, 1: 1.2}


def test_differences_say_what_judged_them():
    apart = {
        "forget/answer_nll": Difference(value=0.2, n=9, by="items", low=0.1, high=0.3),
        "retain/exact_match": Difference(value=-0.01, n=9, by="seeds", low=-0.1, high=0.08),
        "benchmark/mmlu": Difference(value=0.0, n=9, by="seeds"),
    }
    grid = tables.of_differences(("mari", "npo"), apart)
    assert grid.columns[0] == "mari − npo"
    assert grid.rows == [
        ["retain/exact_match", "-0.010", "-0.100", "+0.080", "seeds", "no"],
        ["forget/answer_nll", "+0.200", "+0.100", "+0.300", "items", "yes"],
        ["benchmark/mmlu", "+0.000", "–", "–", "seeds", "–"],
    ]
