"""OpenUnlearning's summaries: the community's overall score of rows that others have published."""

import json

import pytest

from mari_cli.errors import UserError
from mari_cli.suites.open_unlearning_summary import INGREDIENTS, lacking, read_summary, summary_scores
from mari_cli.suites.tofu_overall import scores

TARGET = {theirs: 0.9 - 0.05 * i for i, theirs in enumerate(INGREDIENTS.values())} | {"privleak": -99.0}
GOLD = {theirs: 0.5 - 0.01 * i for i, theirs in enumerate(INGREDIENTS.values())}
OWN = {theirs: 0.6 - 0.03 * i for i, theirs in enumerate(INGREDIENTS.values())}


def test_the_scores_are_those_of_the_formulas_under_names_of_their_own():
    found = summary_scores(OWN, "own", GOLD, TARGET)
    own, gold, target = (
        {ours: of[theirs] for ours, theirs in INGREDIENTS.items()} for of in (OWN, GOLD, TARGET)
    )
    expected = scores(own, gold, target)
    assert {name: estimate.value for name, estimate in found.items()} == {
        f"tofu/{name}_open_unlearning": float(value) for name, value in expected.items()
    }
    assert "tofu/overall_open_unlearning" in found
    assert {(e.n, e.low, e.high) for e in found.values()} == {(0, None, None)}


@pytest.mark.parametrize("value", ["absent", None])
def test_a_summary_without_fluency_gives_scores_that_say_so(value):
    less = {name: x for name, x in OWN.items() if name != "forget_Q_A_gibberish"}
    less |= {} if value == "absent" else {"forget_Q_A_gibberish": None}
    found = summary_scores(less, "own", GOLD, TARGET)
    assert "tofu/overall_without_fluency_open_unlearning" in found
    assert "tofu/overall_open_unlearning" not in found
    assert lacking({"model": less, "gold": GOLD}) == ["model: the summary has no `forget_Q_A_gibberish`"]


def test_a_number_that_is_no_share_is_refused_with_its_file():
    with pytest.raises(UserError, match=r"`row\.json`: expected shares in"):
        summary_scores(OWN | {"exact_memorization": 1.5}, "row.json", GOLD, TARGET)
    with pytest.raises(UserError, match="the target's utility is 0"):
        summary_scores(OWN, "row.json", GOLD, TARGET | {"model_utility": 0.0})


def test_what_is_no_summary_is_left_to_who_reads_logs(tmp_path):
    file = tmp_path / "TOFU_SUMMARY.json"
    for content in ("{", "[]", "{}", '{"a": {"value_by_index": {}}}', '{"a": "b"}'):
        file.write_text(content)
        assert read_summary(file) is None
    assert read_summary(tmp_path / "missing.json") is None
    file.write_text(json.dumps(OWN))
    assert read_summary(file) == read_summary(tmp_path) == OWN


def test_a_published_study_is_met_to_the_last_digits(shared):
    file = shared / "oracles" / "tofu_overall" / "summaries.json"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    rows = json.loads(file.read_text())["rows"]
    gold, target = (rows[f"baselines/{name}"]["summary"] for name in ("retrain", "target"))
    for row, of_row in rows.items():
        found = summary_scores(of_row["summary"], row, gold, target)
        for name, value in of_row["expected"].items():
            assert found[f"tofu/{name}_open_unlearning"].value == pytest.approx(value, abs=1e-12, rel=0)
