"""Every YAML of conf/ and experiments/ composes and parses."""

import re
from importlib import resources
from itertools import zip_longest
from pathlib import Path

import pytest

from mari_cli import config, launch
from mari_cli.errors import UserError
from mari_cli.launch import Experiment

CONF = Path(str(resources.files("mari_cli.conf")))
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
OPTIONS = launch.options()
GROUPS = {
    "unlearn": {
        "model",
        "forget",
        "retain",
        "holdout",
        "loss",
        "train",
        "metrics",
        "suite",
        "tracker",
        "audit",
    },
    "finetune": {"model", "forget", "retain", "holdout", "train", "metrics", "tracker"},
    "evaluate": {"model", "forget", "retain", "holdout", "metrics", "suite", "tracker"},
    "audit": {"model", "forget", "retain", "holdout", "metrics", "audit", "tracker"},
}


def parsed(task: str, *overrides: str) -> config.RunConfig:
    return launch.parse(launch.compose(Experiment(task, overrides)))


def names(task: str, group: str) -> list[str]:
    """The options of ``group`` that ``task`` has."""
    found = [option.name for option in OPTIONS if option.group == group]
    return [task] if group == "train" else found


def require_composed(task: str, *overrides: str) -> None:
    cfg = parsed(task, *overrides)
    assert type(cfg) is config.SCHEMAS[task]
    for override in overrides:
        assert getattr(cfg, override.partition("=")[0]) is not None


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in sorted(GROUPS["unlearn"]) for name in names("unlearn", group)]
)
def test_every_option_composes_alone(choice):
    require_composed("unlearn", choice)


@pytest.mark.parametrize("task", [task for task in launch.TASKS if task != "unlearn"])
def test_every_option_composes_in_every_other_command_that_has_its_group(task):
    """The first options of all groups, then the second, and so on: a file is the same in every command."""
    groups = sorted(GROUPS[task] - {"suite"})
    rows = zip_longest(*([f"{group}={name}" for name in names(task, group)] for group in groups))
    for row in rows:
        require_composed(task, *filter(None, row))
    for suite in names(task, "suite") if "suite" in GROUPS[task] else ():  # which must be of the corpora
        require_composed(task, f"suite={suite}")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_every_option_says_what_it_is_and_builds_on_a_schema(option):
    text = (CONF / option.group / f"{option.name}.yaml").read_text(encoding="utf-8")
    assert len(option.description) > 20
    assert re.search(r"^defaults: \[(/schema/\S+@_here_|\w+), _self_\]$", text, re.MULTILINE)


@pytest.mark.parametrize("task", launch.TASKS)
def test_what_a_command_does_when_nothing_is_said_composes(task):
    cfg = parsed(task)
    assert cfg.task == task
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\w+", cfg.out)
    assert (cfg.forget.name, cfg.retain.name, cfg.holdout.name) == ("fictional", "fictional", "fictional")


def test_there_is_no_yaml_that_no_test_composes():
    found = {file.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml")}
    tested = {f"{option.group}/{option.name}.yaml" for option in OPTIONS}
    assert found == tested | {"_base.yaml", "unlearn.yaml", "finetune.yaml", "evaluate.yaml", "audit.yaml"}


def test_the_groups_of_the_readme_are_there():
    assert {option.group for option in OPTIONS} == GROUPS["unlearn"] | GROUPS["audit"]
    models = {option.name for option in OPTIONS if option.group == "model"}
    assert models >= {"gpt2_tiny", "gpt2_large", "llama_3_2_1b", "llama_3_1_8b", "smollm2_135m", "stories15m"}


@pytest.mark.parametrize("option", ["tofu", "fictional", "jsonl", "text"])
def test_retain_and_holdout_follow_the_choice_of_forget(option):
    cfg = parsed("unlearn", f"forget={option}")
    assert isinstance(cfg.forget, config.FictionalCorpus) == (option == "fictional")
    assert isinstance(cfg.retain, config.FictionalCorpus) == (option == "fictional")
    assert isinstance(cfg.holdout, config.FictionalCorpus) == (option == "fictional")


def test_retain_follows_forget_unless_it_is_chosen():
    cfg = parsed("unlearn", "forget=tofu", "retain=jsonl", "retain.path=rest.jsonl")
    assert cfg.retain.path == "rest.jsonl"
    assert cfg.holdout.subset == "holdout10"


def test_the_fictional_corpora_are_of_one_world():
    cfg = parsed("unlearn", "forget.seed=7", "forget.overlap=0.25", "forget.form=both")
    for corpus in (cfg.retain, cfg.holdout):
        assert (corpus.seed, corpus.overlap, corpus.form) == (7, 0.25, "both")
    assert (cfg.forget.people, cfg.retain.people, cfg.holdout.people) == (20, 80, 20)


def test_tofu_forgets_a_tenth_keeps_the_rest_and_holds_out_unseen_authors():
    cfg = parsed("unlearn", "forget=tofu")
    subsets = [corpus.subset for corpus in (cfg.forget, cfg.retain, cfg.holdout)]
    assert subsets == ["forget10", "retain90", "holdout10"]


@pytest.mark.parametrize(("split", "rest"), [("01", "99"), ("05", "95")])
def test_a_smaller_share_of_tofu_takes_its_retain_and_holdout_with_it(split, rest):
    cfg = parsed("unlearn", f"forget=tofu_forget{split}", "suite=tofu", f"suite.split=forget{split}")
    subsets = [corpus.subset for corpus in (cfg.forget, cfg.retain, cfg.holdout)]
    assert subsets == [f"forget{split}", f"retain{rest}", f"holdout{split}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["forget=tofu", "forget.subset=forget01"], "`retain.subset` must be retain99 beside"),
        (
            ["forget=tofu_forget01", "suite=tofu"],
            "`suite.split` must be `forget.subset`, forget01, got forget10",
        ),
    ],
)
def test_shares_of_tofu_that_do_not_belong_together_are_refused(overrides, message):
    with pytest.raises(UserError) as refused:
        parsed("unlearn", *overrides)
    assert message in str(refused.value)


def test_the_unlearning_has_a_training_of_its_own_for_target_and_gold():
    cfg = parsed("unlearn", "finetune.epochs=3", "train.steps=7")
    assert (type(cfg.finetune), type(cfg.train)) == (config.FinetuneConfig, config.UnlearnConfig)
    assert (cfg.finetune.epochs, cfg.train.steps) == (3, 7)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("MARI_CACHE", raising=False)
    assert parsed("unlearn").cache == "~/.cache/mari"
    monkeypatch.setenv("MARI_CACHE", "/somewhere/else")
    assert parsed("unlearn").cache == "/somewhere/else"


@pytest.mark.parametrize(
    "file",
    sorted([*EXPERIMENTS.glob("*/run*.yaml"), *EXPERIMENTS.glob("*/reduced.yaml")]),
    ids=lambda file: f"{file.parent.name}/{file.stem}",
)
def test_every_experiment_composes_alone_and_as_a_sweep(file):
    planned = launch.plan(Experiment("unlearn", file=file))
    assert planned.methods if isinstance(planned, launch.PlannedSearch) else planned.jobs
    launch.parse(launch.compose(Experiment(planned.task, file=file)))


def test_what_is_shipped_for_long_answers_is_what_complete_tofu_was_measured_with():
    experiment = EXPERIMENTS / "rest_at_gold" / "tofu.yaml"
    measured = ("method=twins_long", "loss.retain_nll_weight=3", "loss.support.difficulty=true")
    cfg = launch.parse(launch.compose(Experiment("unlearn", measured, experiment)))
    shipped = parsed("unlearn", "loss=mari_long")
    assert isinstance(cfg, config.UnlearnRun)
    assert isinstance(shipped, config.UnlearnRun)
    assert cfg.loss == shipped.loss
