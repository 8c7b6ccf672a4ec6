"""What the commands do besides running tasks: show, list, and hand over."""

import json
import re
from importlib import resources

from omegaconf import OmegaConf

from mari_cli import config, launch
from mari_cli.launch import Experiment
from mari_cli.suites.registry import METRICS


def test_config_show_prints_yaml_that_is_the_config(mari):
    said = mari("config", "show", "loss=npo", "train.steps=7", "out=here")
    shown = OmegaConf.create(said.out)
    assert (shown.loss.name, shown.train.steps) == ("npo", 7)
    parsed = launch.parse(launch.compose(Experiment("unlearn", ["loss=npo", "train.steps=7", "out=here"])))
    assert OmegaConf.to_container(shown) == config.to_plain(parsed)
    assert said.err == ""


def test_config_show_prints_a_run_that_can_be_read_back(mari, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(mari("config", "show", "--task", "finetune").out)
    assert isinstance(launch.load_run_config(tmp_path / "run"), config.FinetuneRun)


def test_config_show_takes_a_file(mari, tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [unlearn, override loss: dpo, _self_]\nseed: 8\n")
    shown = OmegaConf.create(mari("config", "show", "-c", "mine.yaml", "train.lr=0.5").out)
    assert (shown.loss.name, shown.seed, shown.train.lr) == ("dpo", 8, 0.5)


def test_config_list_names_every_group(mari):
    said = mari("config", "list")
    words = {line.split()[0] for line in said.out.splitlines()[1:]}
    assert {"model=gpt2_tiny", "forget=tofu", "retain=jsonl", "holdout=text", "loss=mari", "train=unlearn",
            "metrics=fast", "tracker=wandb"} <= words  # fmt: skip


def test_config_list_of_one_group(mari):
    said = mari("config", "list", "tracker")
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == ["tracker=none", "tracker=wandb"]


def test_runs_list_of_nothing_says_so_on_stderr(mari):
    said = mari("runs", "list")
    assert (said.code, said.out, said.err) == (0, "", "no runs\n")


def test_metrics_lists_every_metric_with_unit_and_direction(mari):
    said = mari("metrics")
    rows = {line.split()[0]: line for line in said.out.splitlines()[1:]}
    assert set(rows) == set(METRICS)
    assert re.match(r"retain/answer_nll +nats/token +lower +mean over items", rows["retain/answer_nll"])
    assert re.match(r"forget/answer_nll +nats/token +as gold ", rows["forget/answer_nll"])
    assert len(said.out.splitlines()) == 1 + len(METRICS)


def test_metrics_of_a_name_prints_its_page_as_it_is_written(mari):
    page = resources.files("mari_cli.docs").joinpath("metrics/extraction_strength.md")
    by_name, by_metric = mari("metrics", "extraction_strength"), mari("metrics", "forget/extraction_strength")
    assert by_name.out == by_metric.out == page.read_text(encoding="utf-8")
    assert (by_name.code, by_name.err) == (0, "")
    assert mari("metrics", "statistics").out.startswith("# Intervals, differences and seeds\n")


def test_metrics_of_an_unknown_name_is_refused(mari):
    said = mari("metrics", "extraction_strenth")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "error: no page about `extraction_strenth`\n  hint: did you mean `extraction_strength`?\n"
    )


PLAN = ("plan", "--lengths", "16+8,24", "train.steps=3", "--device", "cpu")


def test_plan_prints_a_table_on_stdout_and_writes_nothing(mari, tmp_path):
    said = mari(*PLAN)
    assert said.code == 0
    figures = {line.partition("  ")[0] for line in said.out.splitlines()}
    assert {
        "model",
        "settings",
        "operations a step",
        "memory at the peak",
        "disk: measuring",
        "disk: run",
        "time a step",
    } <= figures
    assert list(tmp_path.iterdir()) == []


def test_plan_prints_everything_as_json(mari):
    found = json.loads(mari(*PLAN, "--json", "--memory", "1GiB").out)
    assert found["step"]["sequences"] == {"forget": 16, "retain": 16}
    assert found["step"]["tokens"] == 16 * 24 * 2
    assert sum(found["memory"]["parts"].values()) == found["memory"]["peak"]
    assert found["memory"]["limit"] == 2**30


def test_plan_refuses_what_fits_nowhere(mari):
    said = mari(*PLAN, "--memory", "1MiB")
    assert (said.code, said.out) == (2, "")
    assert "error: a step does not fit 1.0 MiB" in said.err
