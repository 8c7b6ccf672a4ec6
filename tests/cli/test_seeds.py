"""A sweep over seeds, from the command to the page: one row, one table."""

import json

import pytest
from tiny import TINY

pytestmark = pytest.mark.smoke


def test_a_sweep_over_seeds_ends_in_one_row_and_keeps_each_seed(mari, tmp_path):
    drawn = ["metrics.max_items=3", "metrics.seeds=[0,1]"]
    said = mari("sweep", "seed=0,1", *TINY, "loss=mari", *drawn, "out=sweep", "cache=cache")
    assert said.code == 0, said.err
    table = [line.split() for line in said.out.splitlines()]
    [row] = [line for line in table if line[:3] == ["0,1", "2", "done"]]
    assert any("±" in cell for cell in row)
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    assert "mari token (2 seeds)" in page
    assert "mari token (2 seeds): each seed" in page
    for directory in (tmp_path / "sweep").glob("*seed=*"):
        metrics = json.loads((directory / "result.json").read_text())["models"]["unlearned"]["metrics"]
        assert 3 < metrics["retain/answer_nll"]["n"] <= 6  # two draws of three, taken together
    (tmp_path / "compare.html").write_text("of another comparison")
    compared = mari("compare", "sweep")
    assert compared.out.endswith("compare-2.html\n")
    assert (tmp_path / "compare.html").read_text() == "of another comparison"
    cells = [line.split() for line in compared.out.splitlines() if "unlearned (mari token)" in line]
    assert all(row[-4] == "2" for row in cells)
    assert cells
