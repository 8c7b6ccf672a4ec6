"""The figures of training: what they draw, and when there is nothing to draw."""

import math
import re
from dataclasses import replace

import pytest
from synthetic_run import write_run

from mari_cli.report.plots import style
from mari_cli.report.plots.training import approach
from mari_cli.report.read import RunData, read_run
from mari_cli.suites.registry import headlines


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return read_run(write_run(tmp_path_factory.mktemp("run") / "a"))


def bands(svg: str) -> int:
    return len(re.findall(r"fill: var\(--gold\); (?:fill-)?opacity: 0\.18", svg))


def test_each_followed_metric_is_drawn_by_step_beside_gold(run: RunData) -> None:
    figure = approach([run])
    assert figure is not None
    followed = [name for name in headlines("followed") if name in run.eval_rows[0]]
    assert len(followed) == 4
    assert figure.svg.count(">step</text>") == len(followed)
    assert bands(figure.svg) == len(followed)
    assert "come to rest" in figure.caption
    assert [key.label for key in figure.legend] == ["before", "gold", run.name]


def test_without_gold_there_is_no_band(run: RunData) -> None:
    alone = replace(run, models={role: model for role, model in run.models.items() if role != "gold"})
    figure = approach([alone])
    assert figure is not None
    assert bands(figure.svg) == 0
    assert "gold" not in figure.caption
    assert "gold" not in re.search(r'aria-label="([^"]*)"', figure.svg)[1]


def test_a_metric_that_no_evaluation_has_gets_no_panel(run: RunData) -> None:
    rows = [row | {"holdout/answer_nll": math.nan} for row in run.eval_rows]
    figure = approach([replace(run, eval_rows=rows)])
    assert figure is not None
    assert figure.svg.count(">step</text>") == 3
    assert approach([replace(run, eval_rows=[])]) is None


def test_a_loss_of_0_stands_on_a_plain_axis(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logarithmic axis would leave it out."""
    rows = [row | {"forget/answer_nll": 30.0 * (number > 0)} for number, row in enumerate(run.eval_rows)]
    monkeypatch.setattr(style, "log_scale", lambda *_: pytest.fail("a logarithmic axis"))
    assert approach([replace(run, eval_rows=rows)]) is not None
