"""What a search is for must be measured by its runs, which is asked before the first step."""

import pytest

from mari_cli import launch
from mari_cli.errors import UserError
from mari_cli.launch import Experiment
from mari_cli.tasks.aim import choose_aim


def configured(*overrides, task="unlearn"):
    return launch.configured(Experiment(task, list(overrides)))


@pytest.mark.parametrize(
    ("metric", "direction", "expected"),
    [
        ("distance_to_gold", None, "down"),
        ("distance_to_gold/kept_side", None, "down"),
        ("retain/token_accuracy", None, "up"),
        ("forget/answer_nll", None, "gold"),
        ("forget/answer_nll", "up", "up"),
        ("benchmark/mmlu", None, "up"),
    ],
)
def test_a_metric_says_itself_where_it_is_to_go(metric, direction, expected):
    assert choose_aim(configured(), metric, direction).direction == expected


@pytest.mark.parametrize(
    ("overrides", "metric", "told"),
    [
        (["gold=none"], "distance_to_gold", "there is no gold model"),
        (["target=as_is"], "distance_to_gold", "there is no gold model"),
        (["gold=none"], "forget/answer_nll", "is best at gold's value"),
        ([], "forget/answer_null", "unknown metric `forget/answer_null`"),
        ([], "tofu/forget_quality", "is the p-value of a test"),
        ([], "tofu/model_utility", "no suite is asked"),
        (["metrics=fast"], "benchmark/mmlu", "does not ask it"),
        (["metrics=fast"], "forget/rougeL", "unknown metric"),
        (["metrics.marginal=false"], "marginal/pooled", "`metrics.marginal` is false"),
        (
            ["forget.path=a.jsonl", "retain.path=b.jsonl", "target=finetune"],
            "holdout/answer_nll",
            "there is no holdout",
        ),
        (["forget.path=a.jsonl", "retain.path=b.jsonl"], "facts/unique_recall", "no file marks its facts"),
    ],
)
def test_an_aim_that_no_run_measures_is_refused(overrides, metric, told):
    with pytest.raises(UserError, match=told):
        choose_aim(configured(*overrides), metric, None)


def test_a_gold_model_at_a_path_is_one():
    assert choose_aim(configured("gold=somewhere"), "distance_to_gold", None)


def test_a_fine_tuning_has_no_gold():
    with pytest.raises(UserError, match="has no gold model"):
        choose_aim(configured(task="finetune"), "distance_to_gold", None)
