"""Information and detectors are followed along a run, and its report sets them side by side."""

import json

from tiny import TINY

from mari_cli import launch
from mari_cli.metrics.bound import fano_accuracy_bound
from mari_cli.tasks.unlearn import unlearn

DETECTORS = ("", "zlib_", "min_k_", "min_k_plus_plus_")


def test_each_evaluation_has_the_bound_and_what_detectors_reach(tmp_path, cache):
    out = tmp_path / "run"
    arguments = [*TINY, "loss=mari_context", "gold=none", "metrics.marginal=true", f"out={out}"]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", [*arguments, f"cache={cache}"])))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looks = [row for row in rows if row["kind"] == "eval"]
    assert len(looks) >= 2
    for look in looks:
        assert look["marginal/bayes_accuracy"] <= look["marginal/fano_accuracy_bound"] + 1e-9
        assert look["marginal/fano_accuracy_bound"] == fano_accuracy_bound(look["marginal/pooled"])
        assert look["marginal/token"] >= 0
        assert 0 <= look["marginal/support"] < 0.7
        for detector in DETECTORS:
            assert 0 <= look[f"privacy/{detector}worst_threshold_advantage"] <= 1
    whole = json.loads((out / "result.json").read_text())["models"]["target"]["metrics"]
    # all items are watched here, so that the first look is the whole measurement
    assert looks[0]["marginal/pooled"] == whole["marginal/pooled"]["value"]
    for detector in DETECTORS:
        name = f"privacy/{detector}worst_threshold_advantage"
        assert looks[0][name] == whole[name]["value"]
    page = (out / "report.html").read_text()
    assert "The bound against what detectors reach" in page
    assert "one token against the support, Fano" in page
