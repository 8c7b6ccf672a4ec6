"""The community's overall score on TOFU."""

import json
from math import exp, log

import numpy as np
import pytest

from mari_cli.metrics.items import ItemValues, take_apart
from mari_cli.metrics.statistics import How
from mari_cli.report.comparison import metric_of
from mari_cli.suites.tofu_overall import (
    METRIC_OF,
    memorization_score,
    overall,
    overall_estimates,
    privacy_score,
    scores,
    utility_score,
)

TARGET = {
    "extraction_strength": 0.9,
    "exact_memorization": 0.95,
    "paraphrase_probability": 0.1,
    "truth_ratio": 0.5,
    "loss_auc": 1.0,
    "zlib_auc": 0.9,
    "min_k_auc": 1.0,
    "min_k_plus_plus_auc": 0.8,
    "model_utility": 0.6,
    "fluency": 0.9,
}
GOLD = TARGET | {"loss_auc": 0.4, "zlib_auc": 0.3, "min_k_auc": 0.4, "min_k_plus_plus_auc": 0.5}
OWN = {
    "extraction_strength": 0.0,
    "exact_memorization": 0.5,
    "paraphrase_probability": 0.0,
    "truth_ratio": 0.75,
    "loss_auc": 0.6,
    "zlib_auc": 0.3,
    "min_k_auc": 0.2,
    "min_k_plus_plus_auc": 0.5,
    "model_utility": 0.5,
    "fluency": 0.75,
}
THEIRS = {
    "forget_Q_A_PARA_Prob": "paraphrase_probability",
    "forget_truth_ratio": "truth_ratio",
    "forget_Q_A_gibberish": "fluency",
    **{f"mia_{attack}": f"{attack}_auc" for attack in ("loss", "zlib", "min_k", "min_k_plus_plus")},
}


def test_the_scores_are_harmonic_means_worked_out_by_hand():
    found = scores(OWN, GOLD, TARGET)
    memorization = 4 / (1 / 1 + 1 / 0.5 + 1 / 1 + 1 / 0.25)
    privacy = 4 / (1 / 0.8 + 1 / 1 + 1 / 0.8 + 1 / 1)
    utility = (2 / (1 / 0.5 + 1 / 0.75)) / (2 / (1 / 0.6 + 1 / 0.9))
    assert found["memorization_score"] == pytest.approx(memorization, abs=1e-15)
    assert found["privacy_score"] == pytest.approx(privacy, abs=1e-15)
    assert found["utility_score"] == pytest.approx(utility, abs=1e-15)
    assert found["overall"] == pytest.approx(3 / (1 / memorization + 1 / privacy + 1 / utility), abs=1e-15)
    assert found.keys() == {"memorization_score", "privacy_score", "utility_score", "overall"}


@pytest.mark.parametrize("lacking", [OWN, TARGET])
@pytest.mark.parametrize("unknown", [None, "absent"])
def test_without_fluency_the_names_say_so_and_utility_is_model_utility_alone(lacking, unknown):
    less = {name: value for name, value in lacking.items() if name != "fluency"}
    less |= {"fluency": None} if unknown is None else {}
    own, target = (less if of is lacking else of for of in (OWN, TARGET))
    found = scores(own, GOLD, target)
    assert found["utility_score_without_fluency"] == pytest.approx(0.5 / 0.6, abs=1e-15)
    assert "overall_without_fluency" in found
    assert not {"overall", "utility_score"} & found.keys()


@pytest.mark.parametrize(
    ("name", "value", "score"),
    [
        ("extraction_strength", 1.0, "memorization_score"),
        ("exact_memorization", 1.0, "memorization_score"),
        ("truth_ratio", 1.0, "memorization_score"),
        ("paraphrase_probability", 1.0, "memorization_score"),
        ("model_utility", 0.0, "utility_score"),
        ("fluency", 0.0, "utility_score"),
    ],
)
def test_one_part_at_0_makes_its_score_and_the_overall_score_0(name, value, score):
    found = scores(OWN | {name: value}, GOLD, TARGET)
    assert found[score] == 0
    assert found["overall"] == 0


def test_an_auc_that_is_1_away_from_golds_makes_privacy_0():
    assert privacy_score(OWN | {"loss_auc": 1.0}, GOLD | {"loss_auc": 0.0}) == 0
    assert privacy_score(OWN | {"loss_auc": 0.0}, GOLD | {"loss_auc": 1.0}) == 0
    assert privacy_score(GOLD, GOLD) == 1


def test_utility_is_relative_to_the_target_and_may_pass_1():
    assert utility_score(TARGET, TARGET) == 1
    assert utility_score(TARGET | {"model_utility": 0.7}, TARGET) > 1
    with pytest.raises(ValueError, match="target's utility is 0"):
        utility_score(OWN, TARGET | {"model_utility": 0.0})


def test_what_needs_gold_or_target_is_left_out_without_them():
    assert scores(OWN).keys() == {"memorization_score"}
    assert scores(OWN, GOLD).keys() == {"memorization_score", "privacy_score"}
    assert scores(OWN, None, TARGET).keys() == {"memorization_score", "utility_score"}
    assert scores({}, {}, {}) == {}


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match="expected shares"):
        memorization_score(OWN | {"truth_ratio": value})


def test_scores_of_draws_are_those_of_each_draw():
    two = {name: np.array([OWN[name], TARGET[name]]) for name in OWN}
    found = scores(two, GOLD, TARGET)
    for name, values in found.items():
        assert values[0] == pytest.approx(scores(OWN, GOLD, TARGET)[name], abs=1e-15)
        assert values[1] == pytest.approx(scores(TARGET, GOLD, TARGET)[name], abs=1e-15)
    assert overall(0.5, 0.5, 0.5) == pytest.approx(0.5)


def test_a_published_study_is_met_to_the_last_digits(shared):
    file = shared / "oracles" / "tofu_overall" / "summaries.json"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    rows = json.loads(file.read_text())["rows"]
    models = {
        row: {THEIRS.get(name, name): value for name, value in of_row["summary"].items()}
        for row, of_row in rows.items()
    }
    assert len(models) == 8
    for row, ingredients in models.items():
        found = scores(ingredients, models["baselines/retrain"], models["baselines/target"])
        expected = rows[row]["expected"]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12, rel=0), (row, name)


def suite_items(shift: float, n: int = 30) -> list[ItemValues]:
    rng = np.random.default_rng(3)
    items = []
    for name in ("forget", "holdout", "retain", "authors", "facts"):
        for item in range(n):
            nll = rng.gamma(2.0) + (shift if name == "forget" else 0.0)
            values = {"answer_nll": nll, "zlib": -nll / 9, "min_k": -2 * nll, "min_k_plus_plus": -3 * nll}
            values |= {
                "extraction_strength": rng.uniform() / 2,
                "exact_memorization": rng.uniform(),
                "paraphrase_probability": exp(-nll - 1),
                "probability": exp(-nll),
                "rouge_l_recall": rng.uniform(),
                "log_truth_ratio": log(rng.uniform(0.2, 1.5)),
            }
            items.append(ItemValues(model="m", suite="tofu", set=name, item=item, values=values))
    return items


def test_from_items_the_scores_are_those_of_the_measured_ingredients_with_intervals_around_them():
    own, gold, target = suite_items(0.1), suite_items(0.0), suite_items(-0.5)
    found = overall_estimates(own, gold, target, How(resamples=200))
    assert found.keys() == {
        "tofu/memorization_score",
        "tofu/privacy_score",
        "tofu/utility_score_without_fluency",
        "tofu/overall_without_fluency",
    }
    measured = [
        {
            name: part.value
            for name, metric in METRIC_OF.items()
            if (part := take_apart(metric_of(metric), items, gold)) is not None
        }
        for items in (own, gold, target)
    ]
    for name, value in scores(*measured).items():
        estimate = found[f"tofu/{name}"]
        assert estimate.value == pytest.approx(value, abs=1e-15)
        assert estimate.n == {"memorization_score": 30, "privacy_score": 60}.get(
            name, 90 if "utility" in name else 150
        )
        assert estimate.low is None or estimate.low <= estimate.value <= estimate.high
    assert found["tofu/overall_without_fluency"].low < found["tofu/overall_without_fluency"].high


def test_gold_against_itself_hides_perfectly_in_every_draw():
    gold = suite_items(0.0)
    privacy = overall_estimates(gold, gold, None, How(resamples=50))["tofu/privacy_score"]
    assert (privacy.value, privacy.low, privacy.high) == (1, None, None)


def test_without_a_gold_model_and_a_target_only_memorization_is_scored():
    assert overall_estimates(suite_items(0), None, None, How(50)).keys() == {"tofu/memorization_score"}
    assert overall_estimates([], None, None, How(50)) == {}
