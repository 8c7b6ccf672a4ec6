"""`mari unlearn audit=…` and `mari audit RUN`, end to end on a tiny model."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from forked import Forked, mari
from tiny import TINY
from wandb_log import records

from mari_cli import launch
from mari_cli.audit.card import BOUND, CAUGHT
from mari_cli.audit.registry import ATTACKS
from mari_cli.cli import tables
from mari_cli.errors import UserError
from mari_cli.launch import Experiment
from mari_cli.report.card import MEANINGS
from mari_cli.tasks.audit import audit
from mari_cli.tasks.record import RunRecord
from mari_cli.tasks.unlearn import unlearn
from mari_cli.tasks.verify import exit_code, verify

pytestmark = pytest.mark.smoke
GENTLE = [
    "audit.relearning.items=[4]",
    "audit.relearning.lrs=[1e-3]",
    "audit.relearning.steps=2",
    "audit.sampling.samples=2",
    "audit.sampling.best_of=2",
    "audit.sampling.max_new_tokens=4",
    "audit.traces.folds=2",
    "audit.traces.max_new_tokens=4",
    "audit.distance.max_new_tokens=4",
    "audit.prompts.given=[1]",
]


BOTH = ["audit.attacks=[plain,relearning]"]


class Seen:
    """What a tracker is told."""

    def __init__(self):
        self.tables, self.values = {}, {}

    def summary(self, values):
        self.values |= values

    def table(self, name, columns, rows):
        self.tables[name] = columns, rows


@pytest.fixture(scope="module")
def audited(tmp_path_factory, cache) -> Path:
    out = tmp_path_factory.mktemp("audit") / "run"
    tiny = [word for word in TINY if not word.startswith("forget.people")]
    words = [*tiny, "forget.people=6", f"out={out}", f"cache={cache}", "audit=quick", *GENTLE]
    launch.run(unlearn, launch.prepare(Experiment("unlearn", words)))
    return out


def audit_of(run: Path, out: Path, cache: Path, *words: str):
    overrides = [f"out={out}", f"cache={cache}", "audit=quick", *GENTLE, *words]
    return launch.prepare(Experiment("audit", overrides, None, str(run)))


def test_a_run_ends_with_its_audit(audited):
    result = json.loads((audited / "result.json").read_text())
    rows = {f"{row['attack']}/{row['case']}": row for row in result["audit"]}
    assert {name.split("/")[0] for name in rows} == set(ATTACKS)
    assert set(rows["plain/greedy"]["models"]) == {"target", "unlearned", "gold"}
    assert set(rows["traces/forget"]["models"]) == {"target", "unlearned"}, "gold has no distance from itself"
    assert all(row["verdict"] for row in rows.values())
    assert result["notes"][1] == BOUND
    assert {row["verdict"] for row in result["audit"]} <= MEANINGS.keys()
    report = (audited / "report.html").read_text()
    assert "Step by step and layer by layer" in report
    assert "steps to half of before" in report
    assert "told from gold&#39;s by a classifier" in report or "told from gold's by a classifier" in report
    assert exit_code(verify(audited)) == 0
    grid = tables.of_card(result)
    assert [row[0] for row in grid.rows] == [row["attack"].replace("_", " ") for row in result["audit"]]


def test_an_audit_of_the_run_says_the_same_and_asks_nobody_twice(audited, cache, tmp_path, monkeypatch):
    def asked(*arguments):
        raise AssertionError("the answers are in the cache")

    for name, attack in ATTACKS.items():
        monkeypatch.setitem(ATTACKS, name, type(attack)(attack.name, attack.verdict, attack.cases, asked))
    result = launch.run(audit, audit_of(audited, tmp_path / "audit", cache))
    before = json.loads((audited / "result.json").read_text())["audit"]
    assert [(row["case"], row["verdict"], row["p_value"]) for row in result["audit"]] == [
        (row["case"], row["verdict"], row["p_value"]) for row in before
    ]


def test_a_killed_audit_goes_on_where_it_was(audited, tmp_path, monkeypatch):
    out, cache = tmp_path / "audit", tmp_path / "cache"
    prepared = audit_of(audited, out, cache, "before=none", "audit.attacks=[plain,prompts,quantisation]")
    asked = tmp_path / "asked"
    for name in ("plain", "prompts", "quantisation"):
        attack = ATTACKS[name]

        def run(lm, case, evidence, attack=attack):
            with asked.open("a") as file:
                file.write(f"{case.full_name}\n")
            if len(asked.read_text().splitlines()) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return attack.run(lm, case, evidence)

        monkeypatch.setitem(ATTACKS, name, type(attack)(attack.name, attack.verdict, attack.cases, run))
    if (child := os.fork()) == 0:
        launch.run(audit, prepared)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (out / "result.json").exists()
    assert len(asked.read_text().splitlines()) == 5
    result = launch.run(audit, launch.resume("audit", out))
    lines = asked.read_text().splitlines()
    cases = {row["attack"] for row in result["audit"]}
    assert cases == {"plain", "prompts", "quantisation"}
    assert len(lines) == 2 * len(set(lines)) + 1, "only the case that was cut off is asked of a model again"


def test_the_tracker_gets_the_card(audited):
    rows = json.loads((audited / "result.json").read_text())["audit"]
    record = RunRecord.__new__(RunRecord)
    record.tracker = Seen()
    record._track_card(rows)
    columns, lines = record.tracker.tables["audit"]
    assert columns == ["attack", "case", "target", "unlearned", "gold", "n", "verdict"]
    assert len(lines) == len(rows)
    own = rows[0]["models"]["unlearned"]["value"]
    assert record.tracker.values[f"audit/{rows[0]['attack']}/{rows[0]['case']}"] == own


def mari_offline(home: Path, words: Sequence[str]) -> None:
    os.environ |= {"HOME": str(home), "WANDB_MODE": "offline"}
    mari(words)


def test_the_real_client_of_wandb_keeps_the_card(audited, cache, tmp_path):
    out, home = tmp_path / "audit", tmp_path / "home"
    home.mkdir()
    words = [f"out={out}", f"cache={cache}", "audit=quick", *GENTLE, "audit.attacks=[plain]", "tracker=wandb"]
    offline = partial(mari_offline, home)
    process = Forked("audit", str(audited), *words, told=tmp_path / "told", program=offline)
    process.finish()
    assert "W&B: offline (auto: WANDB_MODE=offline)" in process.told.read_text()
    (log,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records(log)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    (row,) = json.loads((out / "result.json").read_text())["audit"]
    assert summary["audit/plain/greedy"] == row["models"]["model"]["value"]
    (table,) = log.parent.glob("files/media/table/audit*.json")
    values = [row["models"][role]["value"] for role in ("target", "model", "gold")]
    assert json.loads(table.read_text())["data"] == [["plain", "greedy", *values, 24, row["verdict"]]]
    assert exit_code(verify(out)) == 0


def test_without_gold_the_card_says_what_it_cannot_say(audited, cache, tmp_path):
    words = ["gold=none", "audit.attacks=[plain,traces,distance]"]
    result = launch.run(audit, audit_of(audited, tmp_path / "audit", cache, *words))
    assert [row["attack"] for row in result["audit"]] == ["plain"]
    assert "there is no gold model" in result["notes"][0]
    left_out = [note for note in result["notes"] if "left out" in note]
    assert [note.split(" are ")[0].split(" is ")[0] for note in left_out] == ["traces", "the distance"]
    assert all(row["verdict"] not in CAUGHT for row in result["audit"])


def test_a_second_gold_is_the_floor(audited, cache, tmp_path):
    words = [f"second_gold={audited}", "audit.attacks=[plain,traces]"]
    result = launch.run(audit, audit_of(audited, tmp_path / "audit", cache, *words))
    of_traces = [row for row in result["audit"] if row["attack"] == "traces"]
    assert all(row["models"]["gold"]["value"] == row["models"]["model"]["value"] for row in of_traces)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["audit.attacks=[plain]", "audit.items=3"], "no verdict can come of this audit: with 1 case "),
        (["audit.alpha=0.001", "audit.relearning.items=[4,16]", *BOTH], ", as relearning/16_items_"),
        (["audit.alpha=0.001", *BOTH], None),
    ],
)
def test_too_few_items_for_a_verdict_are_told_before_the_first_case(
    audited, cache, tmp_path, capsys, words, told
):
    launch.run(audit, audit_of(audited, tmp_path / "audit", cache, "before=none", *words))
    begin = capsys.readouterr().err.split("run: ")[0]
    assert (told in begin) if told else ("verdict" not in begin)
    assert not told or "larger `audit.items`" in begin


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["second_gold=nowhere"], "no second gold model"),
        (["gold=nowhere"], "no gold model"),
        (["device=cuda"], "no CUDA device"),
        (["audit.attacks=[plan]"], "`audit.attacks` has no plan"),
        (["audit.attacks=[traces]", "gold=none"], "no attack is left: traces are left out"),
        (["audit.traces.folds=1"], "at least 2"),
        (["audit.paraphrases=nowhere.jsonl"], "no such file"),
        (["audit.paraphrases=nowhere.jsonl", "audit.attacks=[plain]"], "needs the attack `prompts`"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(audited, cache, tmp_path, words, why):
    import torch

    if "device=cuda" in words and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    out = tmp_path / "audit"
    with pytest.raises(UserError, match=why):
        launch.run(audit, audit_of(audited, out, cache, *words))
    assert not out.exists()


def test_a_gold_model_with_another_tokenizer_is_refused(audited, cache, tmp_path):
    gold = Path(shutil.copytree(audited / "checkpoint", tmp_path / "gold"))
    tokenizer = json.loads((gold / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (gold / "tokenizer.json").write_text(json.dumps(tokenizer))
    for key in ("gold", "second_gold"):
        with pytest.raises(UserError, match="has another tokenizer"):
            launch.run(audit, audit_of(audited, tmp_path / "audit", cache, f"{key}={gold}"))


def test_a_run_that_changed_after_its_end_is_refused(audited, cache, tmp_path):
    run = Path(shutil.copytree(audited, tmp_path / "run"))
    weights = run / "checkpoint" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"model.safetensors` .* changed|is not what its manifest says"):
        launch.run(audit, audit_of(run, tmp_path / "audit", cache))


@pytest.mark.parametrize("has_model", [True, False])
def test_a_run_that_is_not_finished_is_refused(audited, cache, tmp_path, has_model):
    run = Path(shutil.copytree(audited, tmp_path / "run"))
    for name in ("result.json", "manifest.json"):
        (run / name).unlink()
    if not has_model:
        shutil.rmtree(run / "checkpoint")
    with pytest.raises(UserError, match="is not finished, so that nothing says") as refusal:
        launch.run(audit, audit_of(run, tmp_path / "audit", cache))
    assert f"--resume {run}" in refusal.value.hint
    assert (f"{run}/checkpoint" in refusal.value.hint) is has_model


def test_an_audit_does_not_go_with_several_requests(tmp_path):
    words = [*TINY, f"out={tmp_path / 'run'}", "audit=quick", "second_gold=none", "forget.requests=2"]
    with pytest.raises(UserError, match=r"forget\.requests"):
        launch.prepare(Experiment("unlearn", words))
