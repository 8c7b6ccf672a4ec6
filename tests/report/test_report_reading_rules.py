from pathlib import Path
from typing import Any

import pytest
from synthetic_run import write_run

from mari_cli.metrics.difference import difference_of_estimates
from mari_cli.metrics.estimate import Estimate
from mari_cli.report.comparison import (
    Change,
    Standing,
    change,
    comparison_rows,
    differing_corpora,
    not_separable,
    results,
    standing,
)
from mari_cli.report.numbers import duration, listed, number, percent
from mari_cli.report.read import read_run, read_runs


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


def test_two_runs_that_their_items_do_not_tell_apart_are_said_not_to_be_separable(tmp_path: Path) -> None:
    rows = comparison_rows([read_run(write_run(tmp_path / name, method="mari")) for name in ("1", "2")])
    sentence = not_separable(rows, confidence="95 %")
    assert sentence
    assert sentence.startswith(
        "Not separable on the same items (95 % intervals of the difference hold 0): mari (1) and mari (2) on "
        "forget answer NLL"
    )
    assert not_separable(rows[:3], confidence="95 %") is None


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
