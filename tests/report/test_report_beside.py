"""The distance to gold and the drift of unseen data, in the words of a report."""

import json
from pathlib import Path

import pytest
from synthetic_run import write_run

from mari_cli.report.narrative import summarise
from mari_cli.report.page import render
from mari_cli.report.read import read_runs
from mari_cli.tasks.compare import compare

SIDES = ("distance_to_gold", "distance_to_gold/forget_side", "distance_to_gold/kept_side")
ENTERED = {
    "forget": ["forget/answer_nll", "privacy/loss_auc"],
    "kept": ["retain/token_accuracy"],
    "left_out": {"forget/exact_match": "target and gold do not differ clearly in it"},
}


def with_distance(path: Path, value: float, *, entered: dict | None = None, **options) -> Path:
    def edit(result):
        for role, forget, kept in (("target", 1.0, 0.0), ("gold", 0.0, 0.01), ("unlearned", value, 0.02)):
            metrics = result["models"][role]["metrics"]
            for name, of in zip(SIDES, (forget + kept, forget, kept), strict=True):
                metrics[name] = {"value": of, "low": max(0, of - 0.1), "high": of + 0.1, "n": 480}
            metrics["holdout/nll_from_target"] = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 160}
            metrics["holdout/nll_from_gold"] = {"value": 0.1, "low": -0.1, "high": 0.3, "n": 160}
            metrics["privacy/loss_auc_from_gold"] = {"value": -0.05, "low": -0.09, "high": -0.01, "n": 320}
        result["distance_to_gold"] = entered or ENTERED

    return write_run(path, edit=edit, **options)


def test_the_headline_gives_the_figure_and_a_claim_says_what_it_is_made_of(tmp_path):
    summary = summarise(read_runs([with_distance(tmp_path / "a", 0.3)]))
    assert summary.headline.endswith(
        "The distance to gold is 0.320 (0.220–0.420), where 0 is gold and 1 is before."
    )
    [claim] = [claim for claim in summary.claims if claim.heading.startswith("How far from gold")]
    assert claim.sentences == [
        "The distance to gold is 0.320 (0.220–0.420), the sum of both sides (n = 480)."
    ]
    points = dict(claim.points)
    assert points["Forget side"].startswith("0.300 (0.200–0.400): 0 is as gold, 1 as far from it as before.")
    assert "loss AUC 0.046 short of gold" in points["Forget side"]
    assert points["Kept side"].endswith("The mean over retain token accuracy 1 %.")
    assert points["Left out"] == "forget exact match (target and gold do not differ clearly in it)."


def test_what_was_never_seen_is_told_to_have_moved_or_not(tmp_path):
    summary = summarise(read_runs([with_distance(tmp_path / "a", 0.3)]))
    [claim] = [claim for claim in summary.claims if claim.heading == "What no model has seen"]
    moved, from_gold, auc = claim.sentences
    assert moved.startswith("What was never seen moved by +0.200 (+0.100 to +0.300) nats a token from before")
    assert from_gold.endswith("from gold's (n = 160). That is not separable from no difference.")
    assert "−0.050 (−0.090 to −0.010) from gold's (n = 320)." in auc
    assert "not separable" not in moved + auc


def test_without_a_distance_nothing_is_said_of_one(tmp_path):
    summary = summarise(read_runs([write_run(tmp_path / "a")]))
    assert "distance" not in summary.headline
    assert not [c for c in summary.claims if c.heading.startswith(("How far", "What no model has seen"))]


def test_several_runs_are_told_the_nearest_first(tmp_path):
    runs = [with_distance(tmp_path / "a", 0.5, method="npo"), with_distance(tmp_path / "b", 0.2)]
    summary = summarise(read_runs(runs))
    [claim] = [claim for claim in summary.claims if claim.heading.startswith("How far from gold")]
    assert [label for label, _ in claim.points] == ["mari", "npo"]
    assert claim.points[0][1] == (
        "0.220 (0.120–0.320): 0.200 (0.100–0.300) on the forget side and 0.020 (0.000–0.120) on the kept "
        "side (n = 480)."
    )
    assert summary.warnings == []


def test_distances_over_different_metrics_are_warned_of(tmp_path):
    fewer = ENTERED | {"forget": ["forget/answer_nll"]}
    runs = [
        with_distance(tmp_path / "a", 0.5, method="npo"),
        with_distance(tmp_path / "b", 0.2, entered=fewer),
    ]
    [warning] = [w for w in compare(runs).warnings if "distances" in w]
    assert warning == (
        "The runs' distances to gold are not of the same metrics (loss AUC not in all of them): do not "
        "compare these figures."
    )


def test_compare_tells_two_distances_apart_or_not(tmp_path):
    runs = [with_distance(tmp_path / "a", 0.9, method="npo"), with_distance(tmp_path / "b", 0.2)]
    apart = compare(runs).differences["distance_to_gold"]
    assert apart.value == pytest.approx(0.7)
    assert apart.separable


def test_the_page_has_the_figure_in_its_tables_and_defines_it(tmp_path):
    page = render(read_runs([with_distance(tmp_path / "a", 0.3)]), title="t")
    assert "Distance to gold, in one figure" in page
    assert "forget side = mean over the metrics of |x - gold| / |target - gold|" in page
    assert json.loads((tmp_path / "a" / "result.json").read_text())["distance_to_gold"] == ENTERED


def test_intervals_of_several_levels_are_warned_of_and_the_order_of_the_runs_moves_no_difference(tmp_path):
    one, two = (write_run(tmp_path / name, method=name) for name in ("npo", "mari"))
    config = two / "config.yaml"
    config.write_text(config.read_text().replace("confidence: 0.95", "confidence: 0.5"))
    there, back = compare([one, two]), compare([two, one])
    for found in (there, back):
        assert any(warning.startswith("Intervals are of several levels") for warning in found.warnings)
    by_items = {name: apart for name, apart in there.differences.items() if apart.by == "items"}
    assert by_items
    for name, apart in by_items.items():
        mirrored = back.differences[name]
        assert (apart.low, apart.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9), name
    assert not any("several levels" in warning for warning in compare([one]).warnings)
