import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from tiny import TINY

from mari_cli import launch
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.membership import advantage_of, dkw_radius
from mari_cli.metrics.statistics import How
from mari_cli.suites.attacks import privleak
from mari_cli.tasks.evaluate import evaluate
from mari_cli.tasks.unlearn import unlearn

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradnorm")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run with everything asked for; its reference is the model that it leaves."""
    root = tmp_path_factory.mktemp("membership")
    common = [*TINY, f"cache={cache}"]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", [*common, f"out={root / 'reference'}"])))
    asked = ["metrics.gradnorm=true", f"metrics.mia_reference={root / 'reference'}", f"out={root / 'run'}"]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", [*common, *asked])))
    return root / "run"


def of_set(run: Path, role: str, name: str) -> list[dict]:
    return [row for row in lines(run / "items.jsonl") if (row["model"], row["set"]) == (role, name)]


@pytest.mark.parametrize("role", ["target", "unlearned", "gold"])
def test_every_attack_is_an_auc_of_scores_that_stand_in_the_rows(run, role):
    metrics = json.loads((run / "result.json").read_text())["models"][role]["metrics"]
    forget, holdout = of_set(run, role, "forget"), of_set(run, role, "holdout")
    labels = [1] * len(forget) + [0] * len(holdout)
    for attack in ATTACKS:
        scores = [-row["answer_nll"] if attack == "loss" else row[attack] for row in [*forget, *holdout]]
        assert metrics[f"privacy/{attack}_auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
        above_all = np.mean(np.array(scores[: len(forget)]) > max(scores[len(forget) :]))
        assert metrics[f"privacy/{attack}_tpr_at_1_fpr"]["value"] == pytest.approx(above_all)
        advantage = metrics[f"privacy/{advantage_of(attack)}"]
        distance = stats.ks_2samp(scores[: len(forget)], scores[len(forget) :]).statistic
        assert advantage["value"] == pytest.approx(distance)
        radius = dkw_radius(len(forget), len(holdout))
        assert advantage["high"] == pytest.approx(min(1.0, distance + radius))


def test_the_reference_attack_is_the_difference_of_two_models_losses(run):
    """The reference is the model that another run left: its own losses stand in that run's rows."""
    theirs = of_set(run.parent / "reference", "unlearned", "forget")
    for row, reference in zip(of_set(run, "target", "forget"), theirs, strict=True):
        assert row["key"] == reference["key"]
        assert row["reference"] == pytest.approx(reference["answer_nll"] - row["answer_nll"], abs=1e-5)


def test_zlib_packs_the_answer_alone(run):
    from mari_cli.data.fictional import read_fictional

    config = launch.parse(launch.compose(launch.Experiment("unlearn", TINY)))
    records = read_fictional(config.forget, corpus="forget")
    for record, row in zip(records, of_set(run, "target", "forget"), strict=True):
        assert row["zlib"] == pytest.approx(-row["answer_nll"] / len(zlib.compress(record.text.encode())))


def test_attacks_are_on_forget_and_holdout_items(run):
    assert {"zlib", "gradnorm", "reference"}.isdisjoint(of_set(run, "target", "retain")[0])


def test_privleak_is_golds_distance_in_percent_and_zero_for_gold(run):
    models = json.loads((run / "result.json").read_text())["models"]
    values = {role: model["metrics"] for role, model in models.items()}
    gold = values["gold"]["privacy/min_k_auc"]["value"]
    for metrics in values.values():
        expected = 100 * (gold - metrics["privacy/min_k_auc"]["value"]) / (1 - gold)
        assert metrics["privacy/privleak"]["value"] == pytest.approx(expected)
    assert values["gold"]["privacy/privleak"]["value"] == 0


def test_without_gold_there_is_no_privleak_and_without_asking_no_backward_pass(run, tmp_path, cache):
    arguments = [*(word for word in TINY if word.startswith(("forget", "retain", "holdout", "metrics")))]
    arguments += [f"model.path={run}", f"out={tmp_path / 'alone'}", f"cache={cache}"]
    result = launch.run(evaluate, launch.prepare(launch.Experiment("evaluate", arguments)))
    names = set(result["models"]["model"]["metrics"])
    assert "privacy/zlib_auc" in names
    assert names.isdisjoint({"privacy/privleak", "privacy/gradnorm_auc", "privacy/reference_auc"})


def test_a_gold_model_that_tells_everything_apart_is_a_note_and_no_number():
    summary = privleak("privacy/privleak", ([1.0, 2.0], [0.0]), ([1.0, 2.0], [0.0]), How())
    assert not summary.metrics
    assert "`privacy/privleak` is left out" in summary.notes[0]
    summary = privleak("muse/privleak", ([1.0, 0.0], [0.5]), ([1.0, 0.0], [0.5]), How())
    assert summary.metrics == {"muse/privleak": Estimate(value=0.0, n=3)}
