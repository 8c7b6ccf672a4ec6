"""A search in a report: ranking, what cannot be told apart, and the front between forgetting and keeping."""

import json
import re
from dataclasses import replace

import pytest
from synthetic_run import write_run

from mari_cli.metrics.difference import Difference, difference_over_strata
from mari_cli.report.page import render
from mari_cli.report.plots.pareto import nondominated
from mari_cli.report.read import read_runs
from mari_cli.report.search import Search, SearchedMethod
from mari_cli.search.aim import Aim
from mari_cli.search.trials import Trial


def part(value, half, by="items"):
    return Difference(value=value, n=10, by=by, low=value - half, high=value + half)


def test_a_front_holds_what_no_other_dominates():
    points = [(0.0, 1.0), (0.1, 0.5), (0.1, 0.4), (0.2, 0.4), (0.3, 0.1), (0.4, 0.3)]
    assert nondominated(points) == [(0.0, 1.0), (0.1, 0.4), (0.3, 0.1)]
    assert nondominated([]) == []


def test_the_mean_over_seeds_has_the_interval_of_independent_parts():
    found = difference_over_strata([part(0.2, 0.3), part(0.4, 0.4)])
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.55))  # sqrt(.09 + .16) / 2
    assert found.separable
    assert found.n == 20
    assert not difference_over_strata([part(0.2, 0.3)]).separable


def test_a_part_without_an_interval_leaves_none():
    assert difference_over_strata([part(0.2, 0.1), Difference(value=1.0, n=1, by="items")]) is None
    assert difference_over_strata([]) is None


@pytest.fixture
def searched(tmp_path):
    """Two methods, two trials of each on seed 1, their best again on seeds 2 and 3."""

    def run(name, value, seed, method):
        def edit(result):
            for role, forget, kept in (("target", 1.0, 0.0), ("gold", 0.0, 0.0), ("unlearned", value, 0.02)):
                for metric, of in (("", forget + kept), ("/forget_side", forget), ("/kept_side", kept)):
                    result["models"][role]["metrics"][f"distance_to_gold{metric}"] = {
                        "value": of, "low": of - 0.05, "high": of + 0.05, "n": 480,
                    }  # fmt: skip

        path = write_run(tmp_path / name, edit=edit, method=method, n=40)
        config = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(re.sub(r"(?m)^seed: \d+", f"seed: {seed}", config))
        return path

    methods = []
    for number, (name, near) in enumerate((("mari", 0.1), ("npo", 0.6))):
        trials = []
        for nth, value in enumerate((near + 0.2, near)):
            path = run(f"{number}-{nth}", value, 1, name)
            trials.append(Trial(number, nth, {"train.lr": 1e-4}, path.name, value=value, cost=value))
        trials.append(Trial(number, 2, {"train.lr": 1e-3}, f"{number}-2", failed="the disk caught fire"))
        reports = [run(f"{number}-best_{seed}", near + seed / 100, seed, name) for seed in (2, 3)]
        methods.append(
            SearchedMethod(name=name, ranges="train.lr", trials=tuple(trials), reports=tuple(reports))
        )
    return Search(
        directory=tmp_path,
        aim=Aim("distance_to_gold", "down"),
        seed=1,
        budget="train.steps=5",
        report_seeds=(2, 3),
        methods=tuple(methods),
    )


def test_a_ranking_is_of_the_seeds_that_nothing_was_chosen_on(searched):
    told = " ".join(searched.sentences)
    assert "Settings were chosen on seed 1; the figures of the runs side by side are of seeds 2 and 3" in told
    assert "1. mari 0.145; 2. npo 0.645" in told
    assert "Every two of them are told apart on the items of these seeds" in told


@pytest.mark.parametrize(
    ("seeds_without_a_step", "forget_side", "nll", "said"),
    [
        ((2, 3), 0.6, 0.1, "npo 0.645 (forgot nothing: no step was kept, it is the model from before)"),
        ((3,), 0.6, 0.1, "npo 0.645 (forgot nothing in 1 of 2 runs: no step was kept)"),
        ((), 0.97, 0.1, "npo 0.645 (forgot nothing that these items show: it is as far from gold as before)"),
        ((), 0.97, 99.0, "npo 0.645"),
        ((), 2.5, 99.0, "npo 0.645 (forgot too much: it is past gold, and further from it than before)"),
    ],
)
def test_a_ranking_says_which_method_is_no_nearer_to_gold(
    searched, seeds_without_a_step, forget_side, nll, said
):
    for path in searched.methods[1].reports:
        result = json.loads((path / "result.json").read_text())
        if int(path.name[-1]) in seeds_without_a_step:
            result["training"]["kept_step"] = 0
        side = result["models"]["unlearned"]["metrics"]["distance_to_gold/forget_side"]
        side |= {"value": forget_side, "low": forget_side - 0.05, "high": forget_side + 0.05}
        result["models"]["unlearned"]["metrics"]["forget/answer_nll"]["value"] = nll
        result["distance_to_gold"] = {"forget": ["forget/answer_nll"], "kept": [], "left_out": {}}
        (path / "result.json").write_text(json.dumps(result))
    assert f"1. mari 0.145; 2. {said}." in " ".join(searched.sentences)


def test_without_a_ranking_it_is_said_as_well(searched):
    for path in searched.methods[1].reports:
        result = json.loads((path / "result.json").read_text())
        result["training"]["kept_step"] = 0
        (path / "result.json").write_text(json.dumps(result))
    alone = replace(searched, methods=searched.methods[1:])
    assert "npo forgot nothing: no step was kept" in alone.sentences[-1]


def test_without_report_seeds_it_says_that_figures_flatter(searched):
    here = replace(searched, report_seeds=())
    assert "on which the settings were chosen: it flatters" in here.sentences[0]
    assert [path.name for path in here.runs] == ["0-1", "1-1"]


def test_the_page_has_every_trial_and_the_front(searched):
    page = render(read_runs(searched.runs), title="a search", search=searched)
    assert "The search" in page
    assert "failed: the disk caught fire" in page
    assert len(re.findall(r">best[;<]", page)) == 2
    assert "trials between forgetting as gold and keeping as before" in page
    assert "2 seeds" in page  # the runs of one method on two seeds are one row
