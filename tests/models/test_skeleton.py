"""Shapes of models whose weights are not there."""

import json
import time
from pathlib import Path

import pytest

from mari_cli.config import ModelConfig
from mari_cli.errors import UserError
from mari_cli.models.skeleton import PUBLISHED, skeleton


def of(**values):
    return skeleton(ModelConfig(name="tiny", **values), vocabulary=None)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", 1235.8),
        ("meta-llama/Llama-3.1-8B-Instruct", 8030.3),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134.5),
        ("openai-community/gpt2-large", 774.0),
        ("Xenova/llama2.c-stories15M", 15.2),
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(name, millions, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, source = of(path=name)
    assert parameters(model) == pytest.approx(millions * 1e6, abs=6e4)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert source in ("as published", name)


def test_a_weight_that_holds_nothing_is_refused():
    with pytest.raises(UserError, match=r"c_fc.weight` has the shape \[16, 0\], and holds nothing"):
        of(architecture={"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_inner": 0})


def test_every_model_of_conf_can_be_planned_out_of_reach_of_the_hub():
    folder = Path(__file__).parents[2] / "conf" / "model"
    paths = [line.split()[1] for file in folder.glob("*.yaml") for line in file.read_text().splitlines()
             if line.startswith("path:") and "null" not in line]  # fmt: skip
    assert set(paths) <= set(PUBLISHED)


def test_a_directory_needs_no_weights(tmp_path):
    shapes = {
        "model_type": "gpt2",
        "n_layer": 1,
        "n_embd": 16,
        "n_head": 2,
        "vocab_size": 50,
        "n_positions": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(shapes))
    model, source = of(path=str(tmp_path))
    assert parameters(model) == 50 * 16 + 8 * 16 + 12 * 16 * 16 + 13 * 16 + 2 * 16
    assert source == str(tmp_path)


def test_an_architecture_follows_its_tokenizer():
    config = ModelConfig(
        name="tiny", architecture={"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2}
    )
    model, _ = skeleton(config, vocabulary=77)
    assert model.get_output_embeddings().weight.shape == (77, 8)
    assert model.config.n_layer == 1


def test_a_name_that_nobody_can_look_up_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.perf_counter()
    with pytest.raises(UserError, match="cannot be loaded from the hub") as refused:
        of(path="somebody/something")
    assert "model.architecture={model_type: llama" in refused.value.hint
    assert time.perf_counter() - started < 5


def test_a_typo_in_an_architecture_is_told():
    with pytest.raises(UserError, match=r"model\.architecture\.n_layers"):
        of(architecture={"model_type": "gpt2", "n_layers": 1})
