"""Runs that train adapters, or weights in bfloat16, or step with 8 bits: they end as any other run does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY
from transformers import AutoModelForCausalLM

from mari_cli import launch
from mari_cli.errors import UserError
from mari_cli.tasks.evaluate import evaluate
from mari_cli.tasks.finetune import finetune
from mari_cli.tasks.plan import plan
from mari_cli.tasks.unlearn import unlearn

pytestmark = pytest.mark.smoke
LORA = ["model.lora.rank=4", "train.lr=1e-2"]
GIVEN = ["model=pretrained", "forget=fictional", *(item for item in TINY if not item.startswith("model."))]
"""With `model.path`, a run of seconds from a model that is there."""


def run(out: Path, cache: Path, *overrides: str) -> dict:
    arguments = [*TINY, f"out={out}", f"cache={cache}", *overrides]
    return launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


def evaluated(model: Path, out: Path, cache: Path) -> dict:
    arguments = ["metrics=fast", "metrics.bootstrap=20", f"out={out}", f"cache={cache}"]
    experiment = launch.Experiment("evaluate", arguments, model=str(model))
    return launch.run(evaluate, launch.prepare(experiment))["models"]["model"]


@pytest.mark.parametrize("loss", ["mari", "mari_pooled", "mari_context", "grad_diff", "kl_ga", "npo", "dpo"])
def test_every_loss_unlearns_with_adapters_and_leaves_a_plain_model(loss, tmp_path, cache):
    out = tmp_path / "run"
    result = run(out, cache, f"loss={loss}", *LORA)
    target, unlearned = (result["models"][role] for role in ("target", "unlearned"))
    assert target["hash"] != unlearned["hash"]
    assert not list((out / "checkpoint").glob("adapter*"))
    assert AutoModelForCausalLM.from_pretrained(out / "checkpoint")


def test_adapters_move_what_they_sit_on_and_nothing_else(tmp_path, cache):
    run(tmp_path / "run", cache, *LORA, "model.lora.targets=[c_attn]", "train.keep=last")
    models = [path for path in (cache / "models").iterdir() if (path / "checkpoint").is_dir()]
    after = weights(tmp_path / "run")
    moved = [
        {name for name, tensor in weights(model).items() if not torch.equal(tensor, after[name])}
        for model in models
    ]
    assert {"transformer.h.0.attn.c_attn.weight"} in moved  # the target's difference; others are golds


@pytest.mark.parametrize(
    ("words", "layer"),
    [(["loss=rmu", "loss.layer=0"], 0), (["loss=npo", "loss.retain_loss=states", "loss.retain_layer=0"], 0),
     (["loss=rmu", "model.architecture.n_layer=2", "model.lora.targets=[transformer.h.1.attn.c_attn]"], 1)],
)  # fmt: skip
def test_a_layer_that_no_adapter_can_change_is_refused_by_a_run_and_by_a_plan(words, layer, tmp_path, cache):
    told = f"reads hidden layer {layer}, but no layer below it has adapters"
    with pytest.raises(UserError, match=told):
        run(tmp_path / "run", cache, *LORA, *words)
    assert not (tmp_path / "run").exists()
    planned = launch.prepare(launch.Experiment("unlearn", [*TINY, *LORA, *words]))
    with pytest.raises(UserError, match=told):
        plan(planned.config, lengths="64")


def test_target_and_gold_are_the_same_with_adapters_and_without(tmp_path, cache):
    plain = run(tmp_path / "plain", cache)
    before = sorted((cache / "models").iterdir())
    adapted = run(tmp_path / "adapted", cache, *LORA)
    assert sorted((cache / "models").iterdir()) == before
    for role in ("target", "gold"):
        assert adapted["models"][role] == plain["models"][role]


def test_an_adapter_that_was_kept_is_measured_as_the_run_measured_it(tmp_path, cache):
    out, own = tmp_path / "run", tmp_path / "cache"
    result = run(out, own, *LORA, "model.lora.merge=false", "train.keep=last")["models"]["unlearned"]
    names = {path.name for path in (out / "checkpoint").iterdir()}
    assert names >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
        "tokenizer.json",
        "README.md",
    }
    assert "model.safetensors" not in names
    again = evaluated(out, tmp_path / "evaluation", own)
    assert again["hash"] == result["hash"]
    name = "forget/answer_nll"
    assert again["metrics"][name]["value"] == result["metrics"][name]["value"]
    # and it is a model to go on from, until its base is gone
    arguments = [*GIVEN, f"model.path={out}", f"out={tmp_path / 'more'}", f"cache={own}"]
    more = launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))
    assert more["models"]["target"]["hash"] == result["hash"]
    shutil.rmtree(own / "models")
    with pytest.raises(UserError, match=r"the base of the adapter at .* is gone"):
        evaluated(out, tmp_path / "second", own)


@pytest.mark.parametrize(
    "options",
    [[], LORA, [*LORA, "model.lora.merge=false"]],
    ids=["all weights", "merged adapters", "kept adapters"],
)
def test_what_is_measured_of_bfloat16_training_is_what_is_saved(options, tmp_path, cache):
    out = tmp_path / "run"
    result = run(out, cache, "train.weights=bfloat16", "train.keep=last", *options)
    assert result["training"]["precision"] == "bfloat16"
    if "model.lora.merge=false" not in options:
        assert {tensor.dtype for tensor in weights(out).values()} == {torch.float32}
    again = evaluated(out, tmp_path / "evaluation", cache)
    assert again["hash"] == result["models"]["unlearned"]["hash"]
    assert result["models"]["target"]["hash"] != again["hash"]


def test_8_bit_steps_go_through_a_whole_run(tmp_path, cache):
    pytest.importorskip("torchao", reason="needs torchao: pip install 'mari-cli[8bit]'")
    result = run(tmp_path / "run", cache, "train.optimizer=adamw_8bit", "train.keep=last")
    assert result["models"]["target"]["hash"] != result["models"]["unlearned"]["hash"]


def test_fine_tuning_with_adapters_is_a_run_of_its_own(tmp_path, cache):
    run(tmp_path / "base", cache)
    of_unlearning = ("train.", "finetune.")
    arguments = [item for item in GIVEN if not item.startswith(of_unlearning)]
    arguments += [f"model.path={tmp_path / 'base'}", "train.epochs=2", *LORA, "model.lora.merge=false"]
    arguments += [f"out={tmp_path / 'run'}", f"cache={cache}"]
    result = launch.run(finetune, launch.prepare(launch.Experiment("finetune", arguments)))
    config = json.loads((tmp_path / "run" / "checkpoint" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == tmp_path / "base" / "checkpoint"
    assert evaluated(tmp_path / "run", tmp_path / "e", cache)["hash"] == result["models"]["model"]["hash"]
