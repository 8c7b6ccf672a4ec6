"""What `mari plan` says, held against what a run does; and that the training asks the same planner."""

import json

import pytest
import torch
from tiny import TINY

from mari_cli import launch
from mari_cli.config import bytes_of
from mari_cli.errors import UserError, size
from mari_cli.losses.objective import build
from mari_cli.models.backbone import choose_layer, hidden_states
from mari_cli.progress import silent
from mari_cli.suites import states
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.standard import measure
from mari_cli.tasks import plan as planning
from mari_cli.tasks import setting as settings
from mari_cli.tasks.forgetting import Draws, open_reference
from mari_cli.tasks.imagined_items import imagined_items
from mari_cli.tasks.plan import plan
from mari_cli.tasks.plan_table import rows
from mari_cli.tasks.preflight import load_for
from mari_cli.tasks.unlearn import unlearn


def configured(*overrides: str):
    return launch.configured(launch.Experiment("unlearn", [*TINY, *overrides]))


def planned(*overrides: str, **options):
    return plan(configured(*overrides), **{"device": "cpu", **options})


def test_with_the_corpora_at_hand_the_very_steps_of_the_run_are_planned(tmp_path):
    config = configured(f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}")
    found = plan(config, device="cpu")
    unlearned(tmp_path, "run")
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    seen = [line["tokens"] for line in lines if line["kind"] == "train"]
    assert found["run"]["tokens"] == pytest.approx(sum(seen) / len(seen))
    assert found["step"]["tokens"] <= max(seen)
    assert found["model"]["parameters"] < 100_000
    assert found["model"]["shapes"] == "model.architecture"


@pytest.mark.parametrize(
    "loss",
    [
        "mari",
        "mari_context",
        "mari_context loss.retain_loss=nll",
        "mari_context loss.retain_loss=states loss.retain_layer=0",
        "npo",
        "npo loss.retain_loss=states",
        "grad_ascent",
    ],
)
def test_the_disk_it_asks_for_is_what_the_caches_take(loss, tmp_path, monkeypatch):
    config = configured(*f"loss={loss}".split(), f"cache={tmp_path}", "train.retain_batch=2")
    found = plan(config, device="cpu")["disk"]
    compute = planning._compute(config, planning._device("cpu", None))
    setting = settings.read_setting(config, compute)
    lm = load_for(config, setting, config.model)
    corpora = settings.tokenize_corpora(config, setting, lm)
    items = {"forget": corpora["forget"].items, "retain": corpora["retain"].items, "alternative": []}
    needs = build(config.loss).needs
    draws = Draws(config, items, needs)
    drawn, reference_of = draws.drawn(), open_reference(lm, draws, target_hash="")
    if needs.reference_layer:
        chosen = {"retain": list(drawn["retain"])[:2], "forget": list(drawn["forget"])[:2]}
        told = reference_of(chosen).recall("retain", range(2)).layer_ND
        seen = [items["retain"][i] for i in chosen["retain"]]
        with torch.no_grad():
            read = choose_layer(lm.model, needs.states.layer)
            expected = hidden_states(lm.model, lm.compute, seen, layer=read)[1]
        assert torch.allclose(told.float(), expected.float())
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.bin"))
    assert found["reference"] + found["context"] == written
    assert (written > 0) == (loss != "grad_ascent")


def test_the_disk_it_asks_for_to_measure_is_what_the_hidden_states_take(tmp_path, monkeypatch):
    config = configured(f"cache={tmp_path}", "retain.validation_fraction=0")
    compute = planning._compute(config, planning._device("cpu", None))
    setting = settings.read_setting(config, compute)
    lm = load_for(config, setting, config.model)
    corpora = settings.tokenize_corpora(config, setting, lm)
    asked: list[int] = []
    room = states.temporary_tensor

    def told(directory, tensor):
        asked.append(tensor.bytes)
        return room(directory, tensor)

    monkeypatch.setattr(states, "temporary_tensor", told)
    measure(Examiner(lm, config.metrics, 0, "", tmp_path, silent, "model"), corpora)
    assert plan(config, device="cpu")["disk"]["measured"] == sum(asked) > 0
    assert not list(tmp_path.rglob("*scratch*"))


def test_of_several_requests_the_largest_is_planned_and_the_steps_of_all_are_counted():
    requests = ("forget.people=3", "train.steps=5", "train.forget_batch=48")
    requests += ("forget.requests=[[Juno Dorner,Otto Jorner],Pia Norford]",)
    found, alone = planned(*requests), planned(*requests, "forget.request_number=1")
    assert found["step"] == alone["step"]
    assert found["step"]["sequences"]["forget"] == 16
    assert found["run"]["tokens"] == alone["run"]["tokens"]
    assert (found["run"]["requests"], alone["run"]["requests"]) == (2, 1)
    assert found["time"]["run_seconds"] == pytest.approx(10 * found["time"]["step_seconds"])
    weights = 4 * found["model"]["parameters"]
    assert found["disk"]["run"] == alone["disk"]["run"] + weights  # each request leaves a model
    told = {figure: words for figure, _, words in rows(found)}
    assert told["time of the run"] == (
        "5 steps, for each of 2 requests, "
        "without evaluations, the support and the fine-tuning of target and gold"
    )
    assert "the request with the most to forget" in told["tokens a step"]
    assert "request" not in str(rows(alone))
    for asked in ("3", "[[A,B],C,D]"):
        imagined = planned(f"forget.requests={asked}", "train.steps=5", lengths="64")["run"]
        assert (imagined["requests"], imagined["steps"]) == (3, 5)
    words = [word for word in TINY if not word.startswith("finetune.")]
    as_is = plan(
        launch.configured(launch.Experiment("unlearn", [*words, "target=as_is", "train.steps=5", "loss=npo"]))
    )
    assert [words for figure, _, words in rows(as_is) if figure == "time of the run"] == [
        "5 steps, without evaluations"
    ]


@pytest.mark.parametrize("forget", ["forget.people=2", "forget.requests=[Juno Dorner,Pia Norford]"])
def test_the_corpora_are_read_once(forget, monkeypatch):
    read = []
    load = planning.load_corpora
    monkeypatch.setattr(planning, "load_corpora", lambda **corpora: read.append(corpora) or load(**corpora))
    planned(forget, "forget.people=3")
    assert len(read) == 1


def test_what_a_run_says_before_it_begins_its_plan_says_too(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("Juno Dorner\nwho\nJuno Dornar\n")
    words = ("loss=mari_twins", f"loss.support.keys={tmp_path / 'names.txt'}", "model.max_length=64")
    planned(*words, "model.chat_template_date=2025-01-31")
    told = capsys.readouterr().err
    assert "note: nothing reads `model.chat_template_date`: it needs a chat template" in told
    assert "the retain data holds 1 of these strings too, as `who`: q leaves out what it says of them" in told
    assert "no forget record holds 1 string of the file, as `Juno Dornar`" in told


def test_lengths_stand_for_corpora_and_tokenizer():
    config = configured()
    found = imagined_items("16+8,24", config, 64)
    assert {(len(i.input_ids), i.num_targets) for i in found["forget"]} == {(24, 8)}
    assert {(len(i.input_ids), i.num_targets) for i in found["retain"]} == {(24, 23)}
    assert len(found["forget"]) == config.train.forget_batch * config.train.steps


def test_steps_without_number_are_planned_without_a_list_of_their_items():
    found = planned("train.steps=100000000000", lengths="16+8")
    few = planned("train.steps=10", lengths="16+8")
    assert found["run"]["steps"] == 10**11
    assert found["run"]["tokens"] == few["run"]["tokens"] == 8 * 24
    assert found["memory"] == few["memory"]
    # what every step draws anew is kept once: the reference's hidden states
    assert found["disk"]["reference"] == few["disk"]["reference"] * 10**10


def test_a_step_of_a_million_sequences_is_refused_before_it_is_counted():
    with pytest.raises(UserError, match="a step of 1000004 sequences is not planned"):
        planned("train.forget_batch=1000000", lengths="16+8")


@pytest.mark.parametrize("lengths", ["", "x", "1", "0+5", "3+4+5", "8,8,8", "900"])
def test_lengths_that_mean_nothing_are_refused(lengths):
    with pytest.raises(UserError, match="--lengths"):
        imagined_items(lengths, configured(), 64)


def test_a_large_model_is_planned_from_its_published_shapes(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = launch.configured(
        launch.Experiment("unlearn", ["model=smollm2_135m", "train.forget_batch=2", "train.retain_batch=2"])
    )
    found = plan(config, lengths="64", device="h100")
    assert found["model"]["precision"] == "bfloat16"
    assert found["memory"]["parts"]["weights"] == pytest.approx(4 * 134.5e6, rel=0.01)
    assert found["memory"]["parts"]["optimizer"] == pytest.approx(8 * 134.5e6, rel=0.01)
    assert found["memory"]["needed"] > found["memory"]["peak"] + 2**30
    # 6 operations for each weight and token, the head's share of it once more, and attention
    assert found["flops"]["fine_tuning"] == pytest.approx(6 * 134.5e6 * 4 * 64, rel=0.1)
    assert found["time"]["step_seconds"] == pytest.approx(found["flops"]["step"] / (0.45 * 989.4e12))


def test_adapters_are_planned_as_the_run_trains_them(tmp_path, capsys):
    config = configured("model.lora.rank=4", f"cache={tmp_path / 'cache'}")
    found = plan(config, device="cpu")
    whole = planned(f"cache={tmp_path / 'cache'}")
    assert found["model"]["trained"] < 0.5 * found["model"]["parameters"]
    assert found["memory"]["parts"]["optimizer"] < 0.5 * whole["memory"]["parts"]["optimizer"]
    assert found["disk"]["run"] < whole["disk"]["run"]
    unlearned(tmp_path, "run", "model.lora.rank=4", "train.memory_limit=1GiB")
    needed = size(found["memory"]["needed"])
    assert f"memory: as configured ({needed} of 1.0 GiB: fits)" in capsys.readouterr().err


@pytest.mark.parametrize("packing", ["auto", "never"])
def test_the_layout_of_the_run_is_planned_and_said(packing, tmp_path, capsys):
    found = planned(f"train.packing={packing}")
    word = "packed" if packing == "auto" else "padded"
    assert found["layout"]["packed"] is (word == "packed")
    assert (found["run"]["padding"] == 0) is (word == "packed")
    assert ("layout", word) in [row[:2] for row in rows(found)]
    unlearned(tmp_path, "run", f"train.packing={packing}")
    assert f"layout: {word}" in capsys.readouterr().err


def test_several_processes_share_the_sequences_and_with_shards_the_weights():
    alone, whole = planned(lengths="24"), planned(lengths="24", processes=2)
    shards = planned("train.parallel=fsdp", lengths="24", processes=2)
    assert whole["flops"]["step"] == pytest.approx(alone["flops"]["step"] / 2, rel=0.1)
    parts = [found["memory"]["parts"] for found in (alone, whole, shards)]
    assert parts[1]["activations"] == pytest.approx(parts[0]["activations"] / 2, rel=0.1)
    assert parts[1]["optimizer"] == parts[0]["optimizer"]
    assert parts[2]["optimizer"] == pytest.approx(parts[0]["optimizer"] / 2, rel=0.05)
    assert any(row[0] == "processes" and "in shards" in row[2] for row in rows(shards))


def test_what_several_processes_cannot_share_is_no_plan_either():
    with pytest.raises(UserError, match=r"`train\.forget_batch=5` on 2 processes"):
        planned("train.forget_batch=5", lengths="24", processes=2)


def test_a_loss_of_prompts_is_not_planned_on_running_text():
    with pytest.raises(UserError, match="dpo needs prompts, but `--lengths 24`"):
        planned("loss=dpo", lengths="24")
    assert planned("loss=dpo", lengths="16+8")["step"]["sequences"]["alternative"] == 4


def test_an_unknown_device_is_told_with_those_that_are_known():
    with pytest.raises(UserError, match="no device called `V1`") as refused:
        planned(device="V1")
    assert "`H100`" in refused.value.hint
    with pytest.raises(UserError, match="--memory must be a size like 40GiB") as refused:
        planned(memory="lots")
    assert refused.value.hint == "for instance `--memory 40GiB`"


@pytest.mark.parametrize(
    ("text", "size"), [("40GiB", 40 * 2**30), ("1.5 gb", 1_500_000_000), ("7MiB", 7 * 2**20)]
)
def test_sizes_are_read_as_they_are_written(text, size):
    assert bytes_of(text, "train.memory_limit") == size


@pytest.mark.parametrize("text", ["40", "GiB", "-1GiB", "0MiB", "4 apples"])
def test_a_size_without_sense_is_refused(text):
    with pytest.raises(UserError, match=r"`train\.memory_limit` must be a size like 40GiB"):
        configured(f"train.memory_limit='{text}'")


# -- the training asks it too --------------------------------------------------------------------------------


def unlearned(tmp_path, name: str, *overrides: str):
    arguments = [*TINY, f"cache={tmp_path / 'cache'}", f"out={tmp_path / name}", *overrides]
    return launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))


def test_a_run_that_is_made_to_fit_says_so_and_ends_where_it_would_have(tmp_path, capsys):
    free = unlearned(tmp_path, "free")
    needed = planned(f"cache={tmp_path / 'cache'}")["memory"]["needed"]
    capsys.readouterr()
    limit = f"train.memory_limit={needed * 0.8 / 2**20:.3f}MiB"
    squeezed = unlearned(tmp_path, "squeezed", limit)
    said = capsys.readouterr().err
    assert "memory: train." in said
    assert "as configured it is" in said
    for metric in ("forget/answer_nll", "retain/answer_nll"):
        values = [run["models"]["unlearned"]["metrics"][metric]["value"] for run in (free, squeezed)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_a_run_that_cannot_fit_is_refused_before_its_first_step(tmp_path):
    with pytest.raises(UserError, match="a step does not fit"):
        unlearned(tmp_path, "none", "train.memory_limit=1MiB")
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "cache" / "models").exists()  # nor was a target trained for it
