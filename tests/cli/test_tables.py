"""What goes to stdout: plain where it is piped, with every model and every job."""

import re
import sys
from pathlib import Path

import pytest

from mari_cli.cli import tables
from mari_cli.launch import Experiment, Failed, options, plan
from mari_cli.metrics.difference import Difference
from mari_cli.storage.run_list import RunSummary, Status
from mari_cli.suites.registry import METRICS
from mari_cli.tasks.compare import merge_seeds


def model(**values: float) -> dict:
    names = {name.replace("/", "_"): name for name in METRICS}
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


def test_a_run_shows_before_after_and_gold_with_interval_and_items(capsys):
    assert printed(tables.of_run(MARI), capsys) == (
        "metric                           target         unlearned              gold  n\n"
        "forget/exact_match              1 [1,1]  0.04 [0.04,0.04]  0.02 [0.02,0.02]  9\n"
        "retain/exact_match     0.99 [0.99,0.99]               – –  0.98 [0.98,0.98]  9\n"
        "forget/answer_nll   0.004 [0.004,0.004]     nan [nan,nan]  0.96 [0.96,0.96]  9\n"
    )


def test_models_of_several_runs_stand_below_each_other_metric_by_metric(capsys):
    assert printed(tables.of_results([MARI]), capsys) == (
        "metric              model                   value       interval  n\n"
        "forget/exact_match  target                      1          [1,1]  9\n"
        "forget/exact_match  unlearned (mari token)   0.04    [0.04,0.04]  9\n"
        "forget/exact_match  gold                     0.02    [0.02,0.02]  9\n"
        "retain/exact_match  target                   0.99    [0.99,0.99]  9\n"
        "retain/exact_match  gold                     0.98    [0.98,0.98]  9\n"
        "forget/answer_nll   target                  0.004  [0.004,0.004]  9\n"
        "forget/answer_nll   unlearned (mari token)    nan      [nan,nan]  9\n"
        "forget/answer_nll   gold                     0.96    [0.96,0.96]  9\n"
    )


def test_metrics_that_no_model_has_are_left_out():
    assert list(dict.fromkeys(row[0] for row in tables.of_results([MARI]).rows)) == [
        "forget/exact_match", "retain/exact_match", "forget/answer_nll"]  # fmt: skip


def test_every_benchmark_as_a_whole_and_all_of_an_own_suite_is_shown():
    names = ["benchmark/mmlu_stem", "benchmark/hellaswag_acc", "benchmark/mmlu", "benchmark/hellaswag",
             "benchmark/wmdp_bio", "capitals/questions"]  # fmt: skip
    metrics = {name: {"value": 0.5, "low": None, "high": None, "n": 2} for name in names}
    result = {"name": "npo", "models": {"model": {"metrics": metrics}}}
    shown = ["benchmark/mmlu", "benchmark/hellaswag", "benchmark/wmdp_bio", "capitals/questions"]
    assert [row[0] for row in tables.of_results([result]).rows] == shown
    assert [row[0] for row in tables.of_run(result).rows] == shown


def test_a_target_and_a_gold_that_runs_share_stand_there_once():
    rows = [row[1] for row in tables.of_results([MARI, NPO]).rows if row[0] == "forget/exact_match"]
    assert rows == ["target", "unlearned (mari token)", "unlearned (npo)", "gold"]


def test_targets_that_differ_are_told_apart_by_the_runs_they_are_of():
    def targets(first, second):
        rows = tables.of_results([first, second]).rows
        return [row[1] for row in rows if row[0] == "forget/exact_match" and row[1].startswith("target")]

    other = {**NPO, "models": {**NPO["models"], "target": {**TARGET, "hash": "another"}}}
    assert targets(MARI, other) == ["target (mari token)", "target (npo)"]
    on_other_data = {**NPO, "data": {"forget": "another"}}
    assert targets(MARI, on_other_data) == ["target (mari token)", "target (npo)"]
    assert targets({**MARI, "data": {"forget": "one"}}, {**NPO, "data": {"forget": "one"}}) == ["target"]


def test_a_metric_that_a_model_lacks_is_a_dash_or_no_row_never_a_zero():
    [row] = [row for row in tables.of_run(MARI).rows if row[0] == "retain/exact_match"]
    assert row == ["retain/exact_match", "0.99 [0.99,0.99]", "– –", "0.98 [0.98,0.98]", "9"]
    rows = [row[1] for row in tables.of_results([MARI, NPO]).rows if row[0] == "privacy/loss_auc"]
    assert rows == ["unlearned (npo)"]


def test_a_null_of_the_json_is_a_dash():
    undefined = model(forget_exact_match=0.5)
    undefined["metrics"]["forget/exact_match"] |= {"value": None, "low": None, "high": None}
    grid = tables.of_results([{"name": "x", "models": {"model": undefined}}])
    assert grid.rows == [["forget/exact_match", "model (x)", tables.NOTHING, tables.NOTHING, "9"]]


def test_models_that_were_asked_different_numbers_of_items_say_so():
    few = model(forget_exact_match=0.5)
    few["metrics"]["forget/exact_match"]["n"] = 4
    grid = tables.of_run({"name": "x", "models": {"target": TARGET, "unlearned": few}})
    assert grid.rows[0][-1] == "9/4"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (0.62268, "0.6227"), (0.00072614, "0.000726"), (1.834066e-21, "1.83e-21"),
     (-31.84, "-31.84"), (17512.4, "17512"), (4.26e7, "4.3e+07"), (float("nan"), "nan")],
)  # fmt: skip
def test_a_number_has_as_many_digits_as_it_can_bear(value, words):
    metrics = {"tofu/forget_quality": {"value": value, "low": None, "high": None, "n": 2}}
    assert tables.of_run({"models": {"model": {"metrics": metrics}}}).rows[0][1] == f"{words} –"


@pytest.fixture
def jobs():
    return plan(Experiment("unlearn", ["loss=mari,npo", "train.steps=7"])).jobs


def test_a_sweep_shows_what_varied_and_which_job_failed(jobs):
    grid = tables.of_sweep(jobs, [MARI, Failed("boom")])
    assert grid.columns == ["job", "loss", "status", "forget/exact_match/n=9", "forget/answer_nll/n=9"]
    assert grid.rows == [["0", "mari", "done", "0.040±0.000", "nan±nan"], ["1", "npo", "failed", "–", "–"]]


def test_a_sweep_in_which_every_job_failed_is_a_table_too(jobs):
    grid = tables.of_sweep(jobs, [Failed("boom"), Failed("boom")])
    assert [row[2] for row in grid.rows] == ["failed", "failed"]


def at(*distances: float | None) -> list[dict]:
    return [
        {
            "name": "mari",
            "models": {
                "unlearned": {
                    "metrics": {"distance_to_gold": {"value": d, "low": d, "high": d, "n": 9}},
                    "hash": str(i),
                }
            },
        }
        for i, d in enumerate(distances)
    ]


def test_a_search_is_told_which_job_came_nearest_to_gold(jobs):
    assert tables.nearest_to_gold(jobs, at(0.5, 0.25)) == (
        "nearest to gold: job 1 (loss=npo), distance_to_gold 0.250±0.000"
    )
    assert "job 0 (loss=mari)" in tables.nearest_to_gold(jobs, at(0.1, 0.25))


@pytest.mark.parametrize("second", [None, float("nan"), Failed("boom")])
def test_one_distance_alone_is_no_search(jobs, second):
    first, other = at(0.5, second if not isinstance(second, Failed) else 1.0)
    assert tables.nearest_to_gold(jobs, [first, second if isinstance(second, Failed) else other]) is None


def test_options_and_runs_have_tables(capsys):
    assert "loss=npo" in printed(tables.of_options(options("loss")), capsys)
    run = RunSummary(path=Path("runs/a"), name="npo", task="unlearn", status=Status.finished,
                     created="2026-01-01T00:00:00+00:00", metrics={"privacy/loss_auc": 0.5})  # fmt: skip
    assert "runs/a  unlearn  npo   finished  2026-01-01T00:00:00+00:00     0.500" in printed(
        tables.of_runs([run]), capsys
    )


def test_in_a_pipe_a_row_is_a_line_without_boxes(capsys):
    text = printed(tables.of_results([MARI, NPO]), capsys)
    assert len(text.splitlines()) == 1 + len(tables.of_results([MARI, NPO]).rows)
    assert not set("─│┃━") & set(text)
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def without_bold(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("grid", [tables.of_run(MARI), tables.of_results([MARI, NPO])])
def test_on_a_terminal_no_line_is_longer_than_it_and_no_number_is_cut(monkeypatch, capsys, grid, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = without_bold(printed(grid, capsys))
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in ("exact", "0.04", "[0.04,0.04]", "0.02"):
        assert word in text


def test_columns_that_a_terminal_has_no_room_for_stand_in_a_table_below(monkeypatch, capsys, jobs):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    names = ("forget/token_accuracy", "facts/unique_recall", "facts/shared_recall", "privacy/loss_auc",
             "benchmark/hellaswag", "benchmark/mmlu", "benchmark/piqa", "benchmark/arc_easy")  # fmt: skip
    metrics = {
        name: {"value": 0.11 + 0.1 * i, "low": 0.1, "high": 0.9, "n": 160} for i, name in enumerate(names)
    }
    result = {"name": "mari", "models": {"unlearned": {"metrics": metrics}}}
    text = without_bold(printed(tables.of_sweep(jobs, [result, result]), capsys))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for metric in metrics.values():
        assert text.count(f" {metric['value']:.3f}") == 2


def test_on_a_narrow_terminal_an_interval_stands_below_its_number(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = without_bold(printed(tables.of_run(MARI), capsys)).splitlines()
    [at] = [i for i, line in enumerate(lines) if line.split()[:1] == ["forget/"] and "0.04" in line]
    assert lines[at].split() == ["forget/", "1", "0.04", "0.02", "9"]
    assert lines[at + 1].split() == ["exact_match", "[1,1]", "[0.04,0.04]", "[0.02,0.02]"]


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
    assert grid.columns == ["job", "loss", "seeds", "status", "forget/answer_nll/n=9"]
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
    assert grid.rows == [["0", "4", "done", "1.000±0.000"]]


def test_a_method_of_several_seeds_is_a_row_of_results_and_a_shared_target_has_no_seeds():
    both = merge_seeds([after("mari", 1.0), after("mari", 1.2)], [0, 1])
    grid = tables.of_results([both, after("npo", 3.0)])
    cells = [dict(zip(grid.columns, row, strict=True)) for row in grid.rows if row[0].endswith("nll")]
    assert [(row["model"], row["seeds"]) for row in cells] == [
        ("target", ""), ("unlearned (mari)", "2"), ("unlearned (npo)", "")]  # fmt: skip
    assert [(row["value"], row["interval"]) for row in cells] == [
        ("0.004", "[0.004,0.004]"), ("1.1", "[0,2.37]"), ("3", "[3,3]")]  # fmt: skip
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
