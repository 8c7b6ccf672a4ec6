"""The card of an audit in a report: every verdict is explained, and its numbers stand there once."""

from synthetic_run import write_run

from mari_cli.audit import card as verdicts
from mari_cli.audit.registry import ATTACKS
from mari_cli.report.card import MEANINGS, robustness_card
from mari_cli.report.page import render
from mari_cli.report.read import read_run

ONE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 160}
SAID = "its outputs are told from gold's (`second_gold=`)"


def audited(result):
    models = result["models"]
    result.update(task="audit", loss=None, training=None, notes=[SAID])
    result["models"] = {"target": models["target"], "model": models["unlearned"], "gold": models["gold"]}
    for model in result["models"].values():
        model["metrics"] = {"audit/logit_lens/best_layer": ONE, "audit/relearning/16_items": ONE}
    found = {"verdict": "no power here", "says": "what is done", "models": dict.fromkeys(models, ONE)}
    found["models"] = dict.fromkeys(result["models"], ONE)
    curve = {"steps": [0, 1, 2], "recall": [0.25, 0.5, 0.75], "steps_to_half": None}
    layers = {"probability_by_layer": [0.1, 0.9]}
    result["audit"] = [
        {"attack": "logit_lens", "case": "best_layer", "detail": {"target": layers}, **found},
        {"attack": "relearning", "case": "16_items", "detail": {"model": curve}, **found},
    ]


def test_every_verdict_is_explained():
    given = {attack.verdict for attack in ATTACKS.values()} | {*verdicts.CAUGHT}
    given |= {verdicts.AS_GOLD, verdicts.TOO_FEW, verdicts.NO_POWER, verdicts.LESS, verdicts.AS_BEFORE}
    assert MEANINGS.keys() == given | {verdicts.FLOOR_UNKNOWN}


def test_curves_stand_behind_the_card(tmp_path):
    card = robustness_card([read_run(write_run(tmp_path / "run", edit=audited))])
    assert [verdict for verdict, _ in card.legend] == ["no power here"]
    layers, steps = card.curves
    assert (layers.at, layers.lines) == (["1", "2"], [("before", ["0.100", "0.900"])])
    assert steps.at == ["0", "1", "2", "steps to half of before"]
    assert steps.lines == [("now", ["0.250", "0.500", "0.750", "never"])]


def test_the_report_of_an_audit_reads_its_numbers_in_one_way(tmp_path):
    """A second table would call what the card says has no power `as gold`."""
    page = render([read_run(write_run(tmp_path / "run", edit=audited))], title="mari audit")
    assert "Suite: audit" not in page
    assert "All numbers" not in page
    assert "Not measured here" not in page
    assert "What the numbers mean" not in page, "nothing would stand below it"
    assert "(<code>second_gold=</code>)" in page.split("</header>")[0]
