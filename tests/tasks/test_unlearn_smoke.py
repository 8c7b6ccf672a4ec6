"""End to end on a tiny GPT-2: every loss runs, and leaves a run that stands alone."""

import json
from importlib import resources
from pathlib import Path

import pytest
import undrawn
from schema import problems
from tiny import TINY
from transformers import AutoModelForCausalLM, AutoTokenizer
from wandb_log import records

from mari_cli import launch
from mari_cli.errors import UserError
from mari_cli.report import narrative
from mari_cli.report.plots import style
from mari_cli.report.read import read_run
from mari_cli.tasks.evaluate import evaluate
from mari_cli.tasks.finetune import finetune
from mari_cli.tasks.unlearn import unlearn

pytestmark = pytest.mark.smoke
SCHEMA = json.loads(resources.files("mari_cli.docs").joinpath("result.schema.json").read_text())
LOSSES = [
    "mari",
    "mari_pooled",
    "mari_context",
    "mari_paper",
    "grad_ascent",
    "grad_diff",
    "kl_ga",
    "npo",
    "dpo",
    "idk_dpo",
    "simnpo",
    "rmu",
    "undial",
    "wga",
    "satimp",
    "ceu",
    "unilogit",
    "jensun",
    "pdu",
]
SUPPORTS = ["mari_twins", "mari_base", "mari_assistant", "who_is_harry_potter"]
DRAWN = {"mari", "mari_pooled", "npo", "mari_twins"}
"""Losses whose runs draw their figures. A figure is drawn in one way, whatever it shows: see tests/report."""


@pytest.fixture
def drawn() -> None:
    """For tests whose reports hold figures that are drawn."""


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = getattr(request.node, "callspec", None) and request.node.callspec.params["loss"]
    if "drawn" not in request.fixturenames and loss not in DRAWN:
        monkeypatch.setattr(style, "to_svg", undrawn.to_svg)


def run(out: Path, cache: Path, *overrides: str) -> dict:
    arguments = [*TINY, f"out={out}", f"cache={cache}", *overrides]
    return launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run without overrides, which no test changes."""
    out = tmp_path_factory.mktemp("plain") / "run"
    run(out, cache)
    return out


@pytest.mark.parametrize("loss", [*LOSSES, *SUPPORTS])
def test_every_loss_unlearns_and_leaves_a_whole_run(loss, tmp_path, cache):
    out = tmp_path / "run"
    result = run(
        out, cache, f"loss={loss}", "metrics.generate=true", "metrics.examples=2", "metrics.max_new_tokens=8"
    )
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "data.json",
        "metrics.jsonl",
        "items.jsonl",
        "examples.json",
        "checkpoint",
        "report.html",
        "result.json",
    }
    assert "state" not in names
    assert result == json.loads((out / "result.json").read_text())
    assert problems(result, SCHEMA) == []
    assert set(result["models"]) == {"target", "unlearned", "gold"}
    measured = result["models"]["unlearned"]["metrics"]
    assert {"forget/answer_nll", "facts/unique_recall", "privacy/loss_auc", "marginal/pooled"} <= set(
        measured
    )
    assert {"holdout/nll_from_target", "holdout/nll_from_gold", "privacy/loss_auc_from_gold"} <= set(measured)
    assert result["distance_to_gold"]["left_out"]["tofu/model_utility"] == "not measured"
    assert measured["distance_to_gold/forget_side"]["value"] > 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    looks = [row for row in rows if row["kind"] == "eval"]
    assert looks
    assert all("memorization/forget/true_token_gap" in look for look in looks)
    assert [row["step"] for row in steps] == list(range(1, result["training"]["steps"] + 1))
    assert all(row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"]) for row in steps)
    assert not any({"mfu", "peak_bytes"} & row.keys() for row in steps)  # nothing is known of a CPU's
    training = result["training"]
    assert training["layout"].startswith("packed")
    assert training["pooling_scope"] == ("step" if loss in ("mari", "mari_pooled", "mari_paper") else None)
    assert training["chunk"] > 0
    assert training["kernels"] == "eager (only compiled on CUDA)"
    assert {"micro_batch", "keep_logits", "gradient_checkpointing"} <= training.keys()
    assert len(json.loads((out / "examples.json").read_text())) == 2
    AutoModelForCausalLM.from_pretrained(out / "checkpoint")
    AutoTokenizer.from_pretrained(out / "checkpoint")


def test_the_target_changes_the_gold_and_the_measurement_of_both_are_made_once(plain, tmp_path, cache):
    first = json.loads((plain / "result.json").read_text())
    before = sorted(path.name for path in (cache / "models").iterdir())
    second = run(tmp_path / "b", cache)
    assert sorted(path.name for path in (cache / "models").iterdir()) == before
    assert first["models"] == second["models"]
    run(tmp_path / "c", cache, "finetune.lr=1e-3")
    assert len(list((cache / "models").iterdir())) == len(before) + 2


def test_a_kept_model_or_measurement_with_a_flipped_bit_is_made_anew(tmp_path, capsys):
    own = tmp_path / "cache"
    first = run(tmp_path / "a", own)
    weights = sorted(own.glob("models/*/checkpoint/model.safetensors"))
    figures = sorted(own.glob("measured/*.json"))
    assert len(weights) == len(figures) == 2
    for path in (weights[0], figures[0]):
        content = bytearray(path.read_bytes())
        content[-40] ^= 1
        path.write_bytes(content)
    capsys.readouterr()
    second = run(tmp_path / "b", own)
    said = " ".join(capsys.readouterr().err.split())
    assert f"the cache in `{weights[0].parent.parent}` is damaged and is made anew" in said
    assert f"`{figures[0]}` in the cache is damaged and is made anew" in said
    assert second["models"] == first["models"]


def test_micro_batches_do_not_change_the_result(plain, tmp_path, cache):
    whole = json.loads((plain / "result.json").read_text())["models"]["unlearned"]["metrics"]
    cut = run(tmp_path / "cut", cache, "train.micro_batch=2")["models"]["unlearned"]["metrics"]
    for name in ("forget/answer_nll", "retain/answer_nll"):
        assert cut[name]["value"] == pytest.approx(whole[name]["value"], rel=1e-5)


def test_benchmarks_are_asked_of_every_model_in_memory_on_the_same_questions(tmp_path, cache):
    out = tmp_path / "run"
    result = run(out, cache, "metrics.benchmarks=[mmlu_sample]", "metrics.benchmark_limit=1")
    for model in result["models"].values():
        assert model["metrics"]["benchmark/mmlu_sample"]["n"] == 57
    rows = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    asked = [(row["model"], row["key"]) for row in rows if row["set"] == "mmlu_sample"]
    keys = [{key for model, key in asked if model == role} for role in ("target", "unlearned", "gold")]
    assert keys[0] == keys[1] == keys[2]
    assert len(asked) == 3 * 57
    assert json.loads((out / "data.json").read_text())["benchmark/mmlu_sample"]["items"] == 57


def test_a_benchmark_that_cannot_be_asked_is_refused_before_anything_is_written(tmp_path, cache):
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path / "run", cache, "metrics.benchmarks=[piqa]", "metrics.benchmark_root=nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("drawn")
def test_no_word_of_the_corpora_is_written_where_no_examples_are_asked_for(tmp_path, cache):
    out = tmp_path / "run"
    run(out, cache, "metrics.examples=0", "metrics.generate=true", "metrics.max_new_tokens=4")
    from mari_cli.data.fictional import people

    names = [person.name for person in people(first=0, count=2, seed=0, overlap=0.5)]
    for path in out.glob("*.*"):
        assert not any(name in path.read_text() for name in names), path


def test_a_model_and_corpora_of_the_users_own(plain, tmp_path, cache, capsys):
    forget, retain = tmp_path / "letters.jsonl", tmp_path / "rest.jsonl"
    forget.write_text(
        "".join(json.dumps({"prompt": f"Who is {n}?", "completion": f"{n} is ill."}) + "\n" for n in "ABC")
    )
    retain.write_text(
        "".join(
            json.dumps({"prompt": f"Who is {n}?", "completion": f"{n} is well."}) + "\n" for n in "DEFGHI"
        )
    )
    arguments = [
        f"model.path={plain}",
        f"forget.path={forget}",
        f"retain.path={retain}",
        f"out={tmp_path / 'own'}",
        f"cache={cache}",
        "metrics=fast",
        "train.steps=3",
    ]
    result = launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))
    assert set(result["models"]) == {"target", "unlearned"}
    assert "privacy/loss_auc" not in result["models"]["target"]["metrics"]
    assert any("fewer than a batch" in note for note in result["notes"])
    said = capsys.readouterr().err
    assert [said.count(f"note: {note}\n") for note in result["notes"]] == [1] * len(result["notes"])


def test_a_tenth_of_a_text_is_forgotten_and_the_rest_retained(plain, tmp_path, cache):
    book = tmp_path / "book.txt"
    book.write_text(
        "\n\n".join(
            f"Chapter {i}. " + f"It was a night like {i} others, and rain fell. " * 12 for i in range(20)
        )
    )
    arguments = [
        f"model.path={plain}",
        f"forget.path={book}",
        f"out={tmp_path / 'own'}",
        f"cache={cache}",
        "metrics=fast",
        "train.steps=2",
        "train.forget_batch=2",
        "train.retain_batch=2",
        "loss=mari_context",
    ]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))
    data = json.loads((tmp_path / "own" / "data.json").read_text())
    assert (data["forget"]["records"], data["retain"]["records"]) == (1, 9)


def test_finetune_then_evaluate_the_run(tmp_path, cache):
    tiny = [
        item.replace("finetune.", "train.")
        for item in TINY
        if not item.startswith(("train.steps", "train.evaluate", "train.forget", "train.retain"))
    ]
    out = tmp_path / "target"
    taught = launch.run(
        finetune, launch.prepare(launch.Experiment("finetune", [*tiny, f"out={out}", f"cache={cache}"]))
    )
    arguments = ["metrics=fast", "metrics.bootstrap=20", f"out={tmp_path / 'evaluation'}", f"cache={cache}"]
    result = launch.run(evaluate, launch.prepare(launch.Experiment("evaluate", arguments, model=str(out))))
    ours, theirs = result["models"]["model"], taught["models"]["model"]
    assert ours["hash"] == theirs["hash"]
    assert ours["metrics"]["forget/answer_nll"]["value"] == theirs["metrics"]["forget/answer_nll"]["value"]


def test_a_model_is_as_far_from_gold_as_in_the_run_that_made_it(plain, tmp_path, cache):
    """Models of other programs are judged as ours are, where the one before and gold are given."""
    made = json.loads((plain / "result.json").read_text())
    places = json.loads((plain / "manifest.json").read_text())["places"]
    out = tmp_path / "evaluation"
    arguments = [f"before={places['target']}", f"gold={places['gold']}"]
    arguments += ["metrics=fast", "metrics.bootstrap=20", f"out={out}", f"cache={cache}"]
    found = launch.run(evaluate, launch.prepare(launch.Experiment("evaluate", arguments, model=str(plain))))
    assert problems(found, SCHEMA) == []
    assert found["distance_to_gold"] == made["distance_to_gold"]
    for role in ("target", "unlearned", "gold"):
        ours, theirs = found["models"][role], made["models"][role]
        assert ours["hash"] == theirs["hash"]
        assert ours["metrics"] == theirs["metrics"]
    headline = narrative.summarise([read_run(out)]).headline
    assert headline == narrative.summarise([read_run(plain)]).headline
    assert json.loads((out / "manifest.json").read_text())["places"] == places


def test_a_finished_run_is_never_written_again(plain, cache):
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
    with pytest.raises(UserError, match="exists"):
        run(plain, cache)
    with pytest.raises(UserError, match="finished"):
        launch.run(unlearn, launch.resume("unlearn", plain))
    assert {path: path.stat().st_mtime_ns for path in plain.rglob("*")} == before


def test_a_loss_that_explodes_stops_before_the_update_and_names_the_step(tmp_path, cache):
    with pytest.raises(UserError, match=r"step \d+: .*not finite; the update was not made"):
        run(
            tmp_path / "run",
            cache,
            "loss=grad_ascent",
            "loss.forget_weight=1e15",
            "train.max_grad_norm=null",
            "train.lr=1e15",
            "train.stop.retain_drop=null",
            "train.stop.at_holdout=false",
        )


def test_benchmarks_can_be_followed_during_training(tmp_path, cache):
    out = tmp_path / "run"
    run(
        out,
        cache,
        "train.evaluate_benchmarks=true",
        "metrics.benchmarks=[mmlu_sample]",
        "metrics.benchmark_limit=1",
    )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looks = [row for row in rows if row["kind"] == "eval"]
    assert looks
    for look in looks:
        assert 0 <= look["benchmark/mmlu_sample"] <= 1
        assert "memorization/forget/extraction_strength" in look
        assert "privacy/min_k_auc" in look


def test_wandb_sees_the_whole_run_offline(tmp_path, cache):
    out = tmp_path / "run"
    run(out, cache, "tracker=wandb", "tracker.mode=offline")
    logs = list((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    # tests/tracking looks at every record; here it is enough that all of it is there
    content = b"".join(record.SerializeToString() for record in records(logs[0]))
    names = (
        b"train/loss",
        b"train/marginal_information",
        b"memorization/forget/answer_nll",
        b"report.html",
        b"results",
    )
    for name in names:
        assert name in content
