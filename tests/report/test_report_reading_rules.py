import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from synthetic_run import write_run

from mari_cli.errors import duration
from mari_cli.metrics.difference import difference_of_estimates, difference_over_seeds
from mari_cli.metrics.estimate import Estimate
from mari_cli.report.comparison import (
    Change,
    Standing,
    by_seed,
    change,
    comparison_rows,
    difference,
    differing_corpora,
    not_separable,
    results,
    side_of,
    standing,
    unshared,
)
from mari_cli.report.format import listed, number, percent
from mari_cli.report.read import RunData, read_run, read_runs
from mari_cli.tasks.compare import compare


def about(value: float, width: float = 0.1) -> Estimate:
    return Estimate(value=value, n=100, low=value - width, high=value + width)


def stands(here: Estimate, *, gold: Estimate, before: Estimate | None) -> Standing | None:
    return standing(
        difference_of_estimates(here, gold), difference_of_estimates(before, gold) if before else None
    )


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (1.05, Standing.at),
        (0.5, Standing.short),
        (2.0, Standing.past),
        (-0.9, Standing.away),
    ],
)
def test_a_value_stands_on_the_way_from_before_to_gold(here: float, expected: Standing) -> None:
    assert stands(about(here), gold=about(1.0), before=about(0.0)) is expected


def test_the_same_holds_where_gold_is_below_before() -> None:
    assert stands(about(0.9, 0.01), gold=about(0.5, 0.01), before=about(1.0, 0.01)) is Standing.short
    assert stands(about(0.3, 0.01), gold=about(0.5, 0.01), before=about(1.0, 0.01)) is Standing.past


def test_where_before_was_as_gold_there_is_no_way_to_stand_on() -> None:
    assert stands(about(2.0), gold=about(1.0), before=about(1.0)) is Standing.off
    assert stands(about(2.0), gold=about(1.0), before=None) is Standing.off


def test_without_an_interval_nothing_is_judged() -> None:
    bare = Estimate(value=1.0, n=1)
    assert stands(bare, gold=about(1.0), before=about(0.0)) is None
    assert change(difference_of_estimates(bare, about(1.0)), direction="up") is None
    assert stands(about(float("nan")), gold=about(1.0), before=about(0.0)) is None


def test_a_change_is_better_in_the_direction_of_its_metric() -> None:
    lower = difference_of_estimates(about(0.5), about(0.9))
    assert change(lower, direction="up") is Change.worse
    assert change(lower, direction="down") is Change.better
    assert change(difference_of_estimates(about(0.85), about(0.9)), direction="up") is Change.kept
    assert change(lower, direction="gold") is None


def test_a_shared_target_and_gold_stand_there_once(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / method, method=method)) for method in ("mari", "npo", "kl_ga")]
    assert [row.label for row in comparison_rows(runs)] == ["before", "gold", "mari", "npo", "kl ga"]


def test_targets_that_differ_stand_there_each_with_its_run(tmp_path: Path) -> None:
    def other(result: dict[str, Any]) -> None:
        result["models"]["target"]["hash"] = "another"

    runs = [
        read_run(write_run(tmp_path / "a")),
        read_run(write_run(tmp_path / "b", method="npo", edit=other)),
    ]
    assert [row.label for row in comparison_rows(runs)][:3] == ["before (mari)", "before (npo)", "gold"]


def test_runs_of_one_name_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name)) for name in ("1", "2")]
    assert [row.label for row in results(comparison_rows(runs))] == ["mari (1)", "mari (2)"]


def test_runs_measured_on_other_data_are_noticed(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo")
    assert differing_corpora(read_runs([a, b])) == []
    (b / "data.json").write_text((b / "data.json").read_text().replace("forget000", "other0000"))
    assert differing_corpora(read_runs([a, b])) == ["forget"]


def test_a_distance_that_one_run_lacks_is_no_corpus_that_it_was_not_asked(tmp_path: Path) -> None:
    def without_distance(result: dict[str, Any]) -> None:
        for model in result["models"].values():
            names = [name for name in model["metrics"] if name.startswith("distance_to_gold")]
            for name in names:
                del model["metrics"][name]

    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", method="npo", edit=without_distance)
    assert unshared(comparison_rows(read_runs([a, b]))) == []


def test_two_runs_that_their_items_do_not_tell_apart_are_said_not_to_be_separable(tmp_path: Path) -> None:
    rows = comparison_rows([read_run(write_run(tmp_path / name, method="mari")) for name in ("1", "2")])
    sentence = not_separable(rows, confidence="95 %")
    assert sentence
    assert sentence.startswith(
        "Not separable on the same items (95 % intervals of the difference hold 0): mari (1) and mari (2) on "
        "forget answer NLL"
    )
    assert not_separable(rows[:3], confidence="95 %") is None


def test_of_three_runs_those_that_a_metric_does_not_tell_apart_are_named(tmp_path: Path) -> None:
    def without(result: dict[str, Any]) -> None:
        del result["models"]["unlearned"]["metrics"]["forget/exact_match"]

    paths = [write_run(tmp_path / name) for name in ("a", "b")]
    paths.append(write_run(tmp_path / "c", method="npo", edit=without))
    sentence = not_separable(comparison_rows(read_runs(paths)), confidence="95 %")
    assert "forget exact match (mari (a) and mari (b))" in str(sentence)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.9634, "0.963"),
        (-0.0763, "−0.076"),
        (25.941, "25.94"),
        (104.72, "104.7"),
        (8123.4, "8,123"),
        (2e43, "2.0e43"),
        (1.2e-7, "1.2e−7"),
        (float("nan"), "not finite"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_are_printed_for_reading(value: float, text: str) -> None:
    assert number(value) == text


def test_small_words_are_right() -> None:
    assert number(0.02, signed=True) == "+0.020"
    assert number(0.0, signed=True) == "0.000"
    assert [percent(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)] == [
        "0 %",
        "under 1 %",
        "50 %",
        "over 99 %",
        "100 %",
    ]
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [duration(7.25), duration(131.7), duration(7500)] == ["7.2 s", "2 min", "2 h 05 min"]


# -- what judges a difference ----------------------------------------------------------------------


def changed_config(path: Path, **settings: Any) -> Path:
    text = (path / "config.yaml").read_text()
    for key, value in settings.items():
        text, count = re.subn(rf"^{key}: .*$", f"{key}: {value}", text, flags=re.MULTILINE)
        assert count == 1
    (path / "config.yaml").write_text(text)
    return path


def with_value(name: str, value: float, role: str = "unlearned") -> Any:
    def edit(result: dict[str, Any]) -> None:
        result["models"][role]["metrics"][name] |= {"value": value, "low": value - 0.02, "high": value + 0.02}

    return edit


def group(tmp_path: Path, method: str, name: str, values: list[float]) -> list[RunData]:
    return [
        read_run(
            changed_config(
                write_run(tmp_path / f"{method}{seed}", method=method, edit=with_value(name, value)),
                seed=seed,
            )
        )
        for seed, value in enumerate(values)
    ]


def test_values_that_items_bear_out_are_compared_on_them_and_others_by_their_intervals(
    tmp_path: Path,
) -> None:
    a, b = (read_run(write_run(tmp_path / m, method=m)) for m in ("mari", "npo"))
    sides = [side_of("unlearned", (run,)) for run in (a, b)]
    nll, accuracy = (difference(f"forget/{name}", *sides) for name in ("answer_nll", "token_accuracy"))
    assert nll
    assert accuracy
    assert (nll.by, accuracy.by) == ("items", "intervals")
    assert nll.value == pytest.approx(
        a.models["unlearned"].metrics["forget/answer_nll"].value
        - b.models["unlearned"].metrics["forget/answer_nll"].value
    )


def test_a_number_that_the_items_do_not_give_is_not_judged_by_them(tmp_path: Path) -> None:
    a = read_run(write_run(tmp_path / "a", edit=with_value("forget/answer_nll", 0.5)))
    b = read_run(write_run(tmp_path / "b", method="npo"))
    found = difference("forget/answer_nll", side_of("unlearned", (a,)), side_of("unlearned", (b,)))
    assert found
    assert found.by == "intervals"


def test_models_that_were_asked_other_items_are_compared_by_their_intervals(tmp_path: Path) -> None:
    a = read_run(write_run(tmp_path / "a"))
    path = write_run(tmp_path / "b", method="npo")
    (path / "items.jsonl").write_text((path / "items.jsonl").read_text().replace('"key": "0', '"key": "f'))
    found = difference(
        "forget/answer_nll", side_of("unlearned", (a,)), side_of("unlearned", (read_run(path),))
    )
    assert found
    assert found.by == "intervals"


def test_what_was_asked_of_one_run_only_is_said(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / m, method=m, n=n) for m, n in (("mari", 160), ("npo", 140))]
    found = compare(runs)
    assert found.warnings == [
        "Not all runs were asked the same items (forget: 160 and 140 items, 140 in common; "
        "holdout: 160 and 140 items, 140 in common; retain: 160 and 140 items, 140 in common), so on these "
        "sets they are compared by their intervals alone."
    ]
    assert found.differences["forget/answer_nll"].by == "intervals"
    assert found.differences["tofu/forget/truth_ratio"].by == "items"
    assert compare([runs[0]]).warnings == []


def test_runs_that_differ_in_their_seed_alone_belong_together(tmp_path: Path) -> None:
    same = [read_run(changed_config(write_run(tmp_path / str(s)), seed=s)) for s in (2, 0, 1)]
    other = read_run(changed_config(write_run(tmp_path / "longer"), seed=3, people=40))
    again = read_run(write_run(tmp_path / "again"))  # seed 0 once more
    grouped = [[run.path.name for run in group] for group in by_seed([*same, other, again])]
    assert grouped == [["0", "1", "2"], ["longer"], ["again"]]


def test_methods_over_seeds_are_compared_in_pairs_of_one_seed(tmp_path: Path) -> None:
    name = "retain/exact_match"
    mari = group(tmp_path, "mari", name, [0.90, 0.80, 0.70])
    npo = group(tmp_path, "npo", name, [0.88, 0.79, 0.685])
    rows = results(comparison_rows([*mari, *npo]))
    assert [row.label for row in rows] == ["mari (3 seeds)", "npo (3 seeds)"]
    found = difference(name, rows[0].side, rows[1].side)
    assert found == difference_over_seeds({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.88, 1: 0.79, 2: 0.685})
    assert found
    assert found.separable
    sentence = not_separable(rows, confidence="95 %")
    assert sentence is None or "retain exact match" not in sentence


def test_a_gold_model_that_serves_every_seed_is_taken_as_it_is(tmp_path: Path) -> None:
    name = "forget/token_accuracy"
    [row] = results(comparison_rows(group(tmp_path, "mari", name, [0.40, 0.42, 0.41])))
    assert row.gold
    gold = row.gold.metrics[name].value
    found = difference(name, row.side, side_of("gold", row.runs))
    assert found
    expected = stats.ttest_1samp([0.40, 0.42, 0.41], gold).confidence_interval()
    assert found.value == pytest.approx(0.41 - gold)
    assert (found.low, found.high) == pytest.approx((expected.low - gold, expected.high - gold))
    assert row.standing(name) is Standing.past


def test_seeds_that_changed_nothing_leave_it_to_the_items(tmp_path: Path) -> None:
    name = "forget/token_accuracy"
    [row] = results(comparison_rows(group(tmp_path, "mari", name, [0.1, 0.1, 0.1])))
    assert row.standing(name) is Standing.past
    found = difference(name, row.side, side_of("gold", row.runs))
    assert found
    assert found.by == "intervals"


def test_one_seed_of_another_method_is_not_judged_against_several(tmp_path: Path) -> None:
    rows = results(
        comparison_rows(
            [
                *group(tmp_path, "mari", "retain/exact_match", [0.9, 0.8]),
                read_run(write_run(tmp_path / "n", method="npo")),
            ]
        )
    )
    assert difference("retain/exact_match", rows[0].side, rows[1].side) is None


def test_methods_of_one_name_are_told_apart_by_their_directories_without_the_seed(tmp_path: Path) -> None:
    paths = [
        changed_config(write_run(tmp_path / f"{i}_people={people}_seed={s}"), seed=s, people=people)
        for i, (people, s) in enumerate([(20, 0), (20, 1), (40, 0), (40, 1)])
    ]
    assert [row.label for row in results(comparison_rows(read_runs(paths)))] == [
        "mari (0_people=20, 2 seeds)",
        "mari (2_people=40, 2 seeds)",
    ]
