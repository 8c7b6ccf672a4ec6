"""The request × step matrix on items whose values are known: what comes back, what erodes, what stays."""

import random

import pytest

from mari_cli.metrics.by_request import CellReading, rows_of
from mari_cli.metrics.items import ItemValues
from mari_cli.metrics.statistics import How, mean_estimate, proportion_estimate

ITEMS = 60
KEYS = [{f"{request}{i:015d}ffff" for i in range(ITEMS)} for request in "ab"]


def model(a: float, b: float, retain: float = 1.0, *, seed: int = 0) -> list[ItemValues]:
    """A model that has so large a share of each request, and of the retain set, exactly right."""
    draw = random.Random(seed)
    found = []
    for set_, letter, share in (("forget", "a", a), ("forget", "b", b), ("retain", "r", retain)):
        for i in range(ITEMS):
            right = float(i < share * ITEMS)
            values = {"exact_match": right, "answer_nll": 2 - 1.5 * right + 0.1 * draw.random()}
            key = f"{letter}{i:015d}"
            number = i + ITEMS * (letter == "b")
            found.append(ItemValues(model="", set=set_, item=number, key=key, values=values))
    return found


@pytest.fixture(scope="module")
def rows():
    steps = [model(1, 1), model(0.1, 0.5), model(0.6, 0, 0.7)]
    found = rows_of(KEYS, steps, {2: model(0.1, 0.1)}, How(200))
    return {(row.of, row.metric): row.cells for row in found}


def test_a_cell_is_the_metric_of_the_items_of_its_request(rows):
    cells = rows["1", "forget/exact_match"]
    assert [cell.value.value for cell in cells] == pytest.approx([1, 0.1, 0.6])
    assert cells[1].value == proportion_estimate(6, ITEMS)
    nll = [item.values["answer_nll"] for item in model(0.1, 0.5)][:ITEMS]
    assert rows["1", "forget/answer_nll"][1].value == mean_estimate(nll, How(200))


def test_what_was_forgotten_and_rises_again_comes_back(rows):
    readings = [cell.reading for cell in rows["1", "forget/exact_match"]]
    assert readings == ["", CellReading.turn, CellReading.back]
    assert rows["1", "forget/answer_nll"][2].reading == CellReading.back  # the loss falls as it comes back


def test_what_nobody_has_asked_for_yet_erodes(rows):
    readings = [cell.reading for cell in rows["2", "forget/exact_match"]]
    assert readings == ["", CellReading.erodes, CellReading.turn]


def test_what_is_to_be_kept_is_read_against_before(rows):
    readings = [cell.reading for cell in rows["retain", "retain/exact_match"]]
    assert readings == ["", CellReading.kept, CellReading.erodes]


def test_gold_stands_beside_the_steps_that_have_one(rows):
    cells = rows["1", "forget/exact_match"]
    assert [cell.gold is not None for cell in cells] == [False, False, True]
    assert cells[2].gold.value == pytest.approx(0.1)
    assert cells[2].as_gold is False
    assert rows["2", "forget/exact_match"][2].as_gold is False


def test_the_same_model_twice_comes_back_nowhere():
    steps = [model(1, 1), model(0.1, 1), model(0.1, 1)]
    for row in rows_of(KEYS, steps, {}, How(200)):
        assert row.cells[2].reading in (CellReading.still, CellReading.kept, CellReading.turn)


def test_what_falls_on_after_its_turn_is_told():
    steps = [model(1, 1), model(0.6, 1), model(0.1, 0)]
    cells = {(row.of, row.metric): row.cells for row in rows_of(KEYS, steps, {}, How(200))}
    assert cells["1", "forget/exact_match"][2].reading == CellReading.further
