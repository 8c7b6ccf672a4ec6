import pytest

from mari_cli.errors import UserError
from mari_cli.metrics.registry import METRICS, SETS, as_logged, describe, logged_as

OTHERS = [
    "privacy/loss_auc",
    "privacy/zlib_auc",
    "privacy/min_k_auc",
    "privacy/min_k_plus_plus_auc",
    "privacy/reference_auc",
    "privacy/gradnorm_auc",
    "privacy/loss_tpr_at_1_fpr",
    "privacy/worst_threshold_advantage",
    "privacy/privleak",
    "muse/verbatim_forget",
    "muse/knowledge_forget",
    "muse/knowledge_retain",
    "muse/min_k_auc",
    "muse/privleak",
    "rwku/forget_level1",
    "rwku/forget_level2",
    "rwku/forget_level3",
    "rwku/neighbor_level1",
    "rwku/neighbor_level2",
    "rwku/mia_forget_nll",
    "rwku/mia_retain_nll",
    "marginal/pooled",
    "marginal/token",
    "marginal/fano_accuracy_bound",
    "marginal/bayes_accuracy",
    "marginal/tv",
    "facts/unique_recall",
    "facts/shared_recall",
    "benchmark/mmlu",
]
OF_ANSWERS = [
    "answer_nll",
    "answer_probability",
    "token_accuracy",
    "exact_match",
    "exact_memorization",
    "extraction_strength",
    "perplexity",
    "verbatim_rouge_l",
]


def test_every_metric_of_a_result_is_registered_under_its_full_name():
    expected = {f"{name}/{metric}" for name in ("forget", "retain", "holdout") for metric in OF_ANSWERS}
    assert set(METRICS) == expected | set(OTHERS)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_states_unit_range_source_and_degenerate_value(name):
    metric = describe(name)
    assert metric.name == name
    assert metric.low < metric.high
    assert all([metric.label, metric.unit, metric.description, metric.source, metric.degenerate])


def test_forget_and_unseen_answers_are_best_at_golds_value_and_retained_ones_at_the_end_of_the_scale():
    assert describe("retain/answer_nll").direction == "down"
    assert describe("retain/exact_match").direction == "up"
    for name in set(SETS) - {"retain"}:
        assert {describe(f"{name}/{metric}").direction for metric in OF_ANSWERS} == {"gold"}


def test_over_forgetting_is_no_better_than_remembering():
    assert describe("privacy/loss_auc").direction == "gold"


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown metric `forget/answer_nl`") as refused:
        describe("forget/answer_nl")
    assert refused.value.hint == "did you mean `forget/answer_nll`?"


@pytest.mark.parametrize(
    ("full", "logged"),
    [
        ("forget/answer_nll", "memorization/forget/answer_nll"),
        ("facts/unique_recall", "memorization/facts/unique_recall"),
        ("retain/exact_match", "utility/retain/exact_match"),
        ("privacy/loss_auc", "privacy/loss_auc"),
        ("benchmark/mmlu", "benchmark/mmlu"),
    ],
)
def test_a_metric_is_logged_under_what_it_says(full, logged):
    assert logged_as(full) == logged
    assert as_logged(logged) == full
