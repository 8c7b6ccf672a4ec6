"""What is said of a model beside target and gold, from the items of all three."""

from dataclasses import replace
from math import exp, log

import numpy as np

from mari_cli.config import MetricsConfig
from mari_cli.suites.measured import Measured
from mari_cli.tasks.beside import compare_models
from mari_cli.tasks.examined import Examined

CONFIG = MetricsConfig(bootstrap=60)


def examined(
    forget_nll: float, *, suite: bool = True, holdout: bool = True, weights: str | None = None
) -> Examined:
    rng = np.random.default_rng(0)
    rows, asked = [], []
    for role in ("forget", "retain", *(("holdout",) if holdout else ())):
        for item in range(40):
            nll = {"forget": forget_nll, "retain": 0.1, "holdout": 1.0}[role] * rng.uniform(0.5, 1.5)
            right = exp(-nll)
            rows.append(
                {"set": role, "item": item, "key": "k", "fact": None, "answer_nll": nll, "tokens": 5}
                | {"exact_memorization": right, "exact_match": float(right > 0.8)}
            )
    for name in ("forget", "holdout", "retain", "authors", "facts") if suite else ():
        for item in range(20):
            nll = (forget_nll if name == "forget" else 1.0) * rng.uniform(0.5, 1.5)
            scores = {"answer_nll": nll, "zlib": -nll, "min_k": -nll, "min_k_plus_plus": -nll}
            scores |= {"extraction_strength": exp(-nll) / 2, "exact_memorization": exp(-nll)}
            scores |= {"probability": exp(-nll), "paraphrase_probability": exp(-nll - 1)}
            scores |= {"log_truth_ratio": log(rng.uniform(0.3, 0.9)), "rouge_l_recall": rng.uniform()}
            asked.append({"suite": "tofu", "set": name, "item": item, "key": "k"} | scores)
    return Examined(Measured({}, rows, []), asked, weights or str(forget_nll))


MODELS = {"target": examined(0.05), "unlearned": examined(0.8), "gold": examined(1.0)}


def metrics(found, role):
    return found.models[role].measured.metrics


def test_of_three_models_the_distance_the_drift_and_the_overall_score_are_told():
    found = compare_models(MODELS, CONFIG, seed=0)
    named = metrics(found, "unlearned")
    assert {"distance_to_gold", "distance_to_gold/forget_side", "distance_to_gold/kept_side"} <= named.keys()
    assert {"holdout/nll_from_target", "holdout/nll_from_gold", "privacy/loss_auc_from_gold"} <= named.keys()
    assert {"tofu/overall_without_fluency", "tofu/utility_score_without_fluency"} <= named.keys()
    assert 0 < named["distance_to_gold/forget_side"].value < 1
    assert metrics(found, "target")["distance_to_gold"].value == 1
    assert metrics(found, "gold")["distance_to_gold/forget_side"].value == 0
    assert metrics(found, "gold")["tofu/privacy_score"].value == 1
    assert metrics(found, "target")["tofu/utility_score_without_fluency"].value == 1
    assert "forget/answer_nll" in found.entered.forget
    assert "tofu/model_utility" in found.entered.kept
    assert found.notes == []


def test_without_a_target_there_is_no_distance_and_no_overall_score_and_that_is_said():
    found = compare_models({"model": MODELS["unlearned"], "gold": MODELS["gold"]}, CONFIG, seed=0)
    named = metrics(found, "model")
    assert {"holdout/nll_from_gold", "privacy/loss_auc_from_gold", "tofu/privacy_score"} <= named.keys()
    assert not [name for name in named if "overall" in name or "distance" in name or "from_target" in name]
    assert found.entered is None
    assert found.notes == [
        "distance to gold is left out: it needs the model before unlearning too (`before=DIR`)",
        "the overall score on TOFU is left out: it needs the model before unlearning (`before=DIR`)",
    ]


def test_without_a_gold_model_only_what_needs_none_is_told():
    found = compare_models({"target": MODELS["target"], "unlearned": MODELS["unlearned"]}, CONFIG, seed=0)
    assert metrics(found, "unlearned").keys() == {
        "holdout/nll_from_target",
        "tofu/memorization_score",
        "tofu/utility_score_without_fluency",
    }
    assert found.entered is None
    assert found.notes == ["the overall score on TOFU is left out: it needs a gold model"]


def test_the_overall_score_lacks_a_holdout_generated_answers_or_a_useful_target_and_says_which():
    def changed(change):
        return {
            role: replace(found, asked=[row for row in map(change, found.asked) if row])
            for role, found in MODELS.items()
        }

    lacking = {
        "a holdout that gold was asked too": changed(lambda row: row if row["set"] != "holdout" else None),
        "generated answers": changed(lambda row: {k: v for k, v in row.items() if k != "rouge_l_recall"}),
    }
    for what, models in lacking.items():
        found = compare_models(models, CONFIG, seed=0)
        assert found.notes == [f"the overall score on TOFU is left out: it needs {what}"]
        assert not [name for name in metrics(found, "unlearned") if "overall" in name]


def test_a_metric_that_does_not_tell_target_from_gold_is_left_out_with_a_note():
    twins = {role: examined(0.05, weights=role) for role in ("target", "unlearned", "gold")}
    found = compare_models(twins, CONFIG, seed=0)
    [note] = found.notes
    assert note.startswith("distance to gold is without forget answer NLL, forget token accuracy")
    assert note.endswith("target and gold do not differ clearly in it")
    assert "distance_to_gold/forget_side" not in metrics(found, "unlearned")
    assert metrics(found, "unlearned")["distance_to_gold/kept_side"].value == 0


def test_a_gold_that_is_the_target_or_the_model_itself_is_told():
    for role in ("target", "unlearned"):
        found = compare_models({**MODELS, "gold": MODELS[role]}, CONFIG, seed=0)
        assert f"gold has the weights of `{role}`: is `gold` the right path?" in found.notes


def test_one_run_of_the_same_items_and_seed_gives_the_same_bits():
    assert compare_models(MODELS, CONFIG, seed=3).models == compare_models(MODELS, CONFIG, seed=3).models
