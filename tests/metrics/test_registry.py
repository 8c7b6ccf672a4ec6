from math import inf

import pytest

from mari_cli.errors import UserError
from mari_cli.metrics.metric import as_logged, logged_as
from mari_cli.metrics.sets import SETS
from mari_cli.suites.lm_metrics import BENCHMARKS, benchmark_name
from mari_cli.suites.registry import METRICS, describe, judged_metrics

OTHERS = [
    "muse/verbatim_forget",
    "muse/knowledge_forget",
    "muse/knowledge_retain",
    "rwku/forget_level1",
    "rwku/forget_level2",
    "rwku/forget_level3",
    "rwku/neighbor_level1",
    "rwku/neighbor_level2",
    "rwku/mia_forget_nll",
    "rwku/mia_retain_nll",
    "marginal/pooled",
    "marginal/token",
    "marginal/support",
    "marginal/fano_accuracy_bound",
    "marginal/bayes_accuracy",
    "marginal/tv",
    "facts/unique_recall",
    "facts/shared_recall",
    "tofu/forget/paraphrase_probability",
    *(
        f"tofu/{score}{form}"
        for score in (
            "memorization_score",
            "privacy_score",
            *(
                f"{name}{fluency}"
                for name in ("utility_score", "overall")
                for fluency in ("", "_without_fluency")
            ),
        )
        for form in ("", "_open_unlearning")
    ),
    "distance_to_gold",
    "distance_to_gold/forget_side",
    "distance_to_gold/kept_side",
    "holdout/nll_from_target",
    "holdout/nll_from_gold",
    "privacy/loss_auc_from_gold",
    *(f"benchmark/{task}" for task in BENCHMARKS),
]
ATTACKS = ["loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradnorm"]
OF_ANSWERS = [
    "answer_nll",
    "answer_probability",
    "token_accuracy",
    "exact_match",
    "exact_memorization",
    "extraction_strength",
    "longest_run",
    "true_token_gap",
    "perplexity",
    "verbatim_rouge_l",
]


OF_TOFU = ["probability", "rouge_l_recall", "rouge_1_recall", "truth_ratio", "truth_ratio_arithmetic"]
OF_TOFU += ["truth_ratio_open_unlearning"]


def test_every_metric_of_a_result_is_registered_under_its_full_name():
    expected = {f"{name}/{metric}" for name in ("forget", "retain", "holdout") for metric in OF_ANSWERS}
    expected |= {f"tofu/{name}/{m}" for name in ("forget", "retain", "authors", "facts") for m in OF_TOFU}
    for form in ("", "_open_unlearning"):
        expected |= {
            f"tofu/forget/{metric}{form}" for metric in ("extraction_strength", "exact_memorization")
        }
        expected |= {f"tofu/forget_quality{form}"}
    expected |= {"tofu/forget_quality_ks"}
    for group in ("privacy", "tofu", "muse"):
        expected |= {f"{group}/{attack}_auc" for attack in ATTACKS}
        expected |= {f"{group}/{attack}_tpr_at_1_fpr" for attack in ATTACKS}
        expected |= {f"{group}/{attack}_worst_threshold_advantage" for attack in ATTACKS if attack != "loss"}
        expected |= {f"{group}/worst_threshold_advantage", f"{group}/privleak"}
    expected |= {f"tofu/model_utility{variant}" for variant in ("", "_arithmetic", "_open_unlearning")}
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


@pytest.mark.parametrize(
    ("name", "label", "unit", "direction", "high"),
    [
        ("benchmark/hellaswag", "HellaSwag", "accuracy", "up", 1),
        ("benchmark/hellaswag_acc", "HellaSwag (acc)", "accuracy", "up", 1),
        ("benchmark/arc_easy_acc_norm", "ARC-Easy (acc_norm)", "accuracy", "up", 1),
        ("benchmark/wikitext", "WikiText", "per word", "down", inf),
        ("benchmark/wikitext_bits_per_byte", "WikiText (bits_per_byte)", "bits/byte", "down", inf),
        ("benchmark/wmdp_bio", "WMDP biology", "accuracy", "down", 1),
        ("benchmark/social_iqa", "social_iqa", "score", "up", inf),
        ("benchmark/pile_10k_word_perplexity", "pile_10k (word_perplexity)", "per word", "down", inf),
        ("benchmark/gsm8k_exact_match", "gsm8k (exact_match)", "fraction of items", "up", 1),
    ],
)
def test_every_benchmark_of_lm_eval_can_be_printed(name, label, unit, direction, high):
    metric = describe(name)
    assert (metric.name, metric.label, metric.unit) == (name, label, unit)
    assert (metric.direction, metric.high) == (direction, high)
    assert all([metric.description, metric.source, metric.degenerate])


def test_a_name_alone_stands_for_what_is_usually_published_and_the_rest_is_named():
    both = ["acc", "acc_norm"]
    assert [benchmark_name("hellaswag", metric, both) for metric in both] == [
        "benchmark/hellaswag_acc",
        "benchmark/hellaswag",
    ]
    assert [benchmark_name("piqa", metric, both) for metric in both] == [
        "benchmark/piqa",
        "benchmark/piqa_acc_norm",
    ]
    assert benchmark_name("some_task", "f1", ["f1", "acc"]) == "benchmark/some_task"
    assert (
        benchmark_name("pile_10k", "word_perplexity", ["word_perplexity"])
        == "benchmark/pile_10k_word_perplexity"
    )
    assert benchmark_name("piqa", "f1", ["f1"]) == "benchmark/piqa_f1"


def test_chance_is_told_where_it_is_known():
    assert describe("benchmark/mmlu").chance == describe("benchmark/wmdp_chem").chance == 0.25
    assert describe("benchmark/wikitext").chance is describe("forget/exact_match").chance is None
    assert describe("benchmark/piqa").degenerate == "0.5 is chance; below it, right answers are avoided"


def test_what_should_be_gone_and_parts_of_a_whole_are_no_general_ability():
    assert {"benchmark/mmlu", "benchmark/mmlu_sample", "benchmark/wikitext"} < set(judged_metrics("kept"))
    assert not {"benchmark/wmdp_bio", "benchmark/mmlu_stem"} & set(judged_metrics("kept"))
