"""Metrics of several models, made again of the same draws."""

import numpy as np
import pytest

from mari_cli.metrics.items import ItemValues, take_apart
from mari_cli.metrics.joint import distinct_items, resampled
from mari_cli.suites.registry import describe


def made(metric, items):
    return take_apart(describe(metric), items)


def items(set="forget", *, n=20, seed=0, facts=True):
    rng = np.random.default_rng(seed)
    return [
        ItemValues(
            model="m",
            set=set,
            item=i,
            fact=("unique" if i < 5 else "shared") if facts else None,
            values={"answer_nll": float(rng.gamma(2.0)), "recalled": float(rng.integers(2))},
        )
        for i in range(n)
    ]


def test_one_draw_serves_all_models_and_all_metrics():
    rows = [*items(), *items("holdout", seed=1)]
    shifted = [
        ItemValues(**{**vars(row), "values": {"answer_nll": row.values["answer_nll"] + 2.0}}) for row in rows
    ]
    parts = {
        "own": made("forget/answer_nll", rows),
        "other": made("forget/answer_nll", shifted),
        "auc": made("privacy/loss_auc", rows),
        "other auc": made("privacy/loss_auc", shifted),
    }
    found = resampled(parts, resamples=100, seed=0)
    assert found["own"].shape == (100,)
    assert np.ptp(found["own"]) > 0
    assert found["other"] - found["own"] == pytest.approx(np.full(100, 2.0))
    assert found["auc"] == pytest.approx(found["other auc"])
    assert distinct_items(parts.values()) == 40


def test_a_part_of_a_sample_is_drawn_with_the_whole():
    rows = items()
    value = {row.item: row.values["answer_nll"] for row in rows}
    recalled = [
        ItemValues(**{**vars(row), "values": {**row.values, "recalled": value[row.item]}}) for row in rows
    ]
    parts = {name: made(name, recalled) for name in ("facts/unique_recall", "facts/shared_recall")}
    parts["forget/answer_nll"] = made("forget/answer_nll", recalled)
    found = resampled(parts, resamples=100, seed=0)
    together = (5 * found["facts/unique_recall"] + 15 * found["facts/shared_recall"]) / 20
    assert found["forget/answer_nll"] == pytest.approx(together)


def test_draws_are_those_of_a_bootstrap_and_of_the_seed_alone():
    part = made("forget/answer_nll", items(n=400))
    first = resampled({"a": part}, resamples=2000, seed=1)["a"]
    assert first.mean() == pytest.approx(part.value, abs=0.01)
    assert first.std() == pytest.approx(part.values[0].std() / 20, rel=0.1)
    assert (resampled({"a": part}, resamples=2000, seed=1)["a"] == first).all()
    assert (resampled({"a": part}, resamples=2000, seed=2)["a"] != first).any()
