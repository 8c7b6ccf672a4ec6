"""Adapters do nothing at first, then only they are trained, and what they amount to is what is saved."""

import json
import shutil

import peft
import pytest
import torch
from tiny_models import GPT2, LLAMA, SMALL, built, loaded
from transformers import AutoModelForCausalLM

from mari_cli.config import LoraConfig, ModelConfig
from mari_cli.errors import UserError
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.head import check_parity
from mari_cli.models.load import base_of
from mari_cli.models.lora import adapters_off, add_adapters, has_adapters, merge_adapters, merged_state

IDS_BT = torch.arange(3, 40).view(1, -1)
MIXTRAL = {**SMALL, "model_type": "mixtral", "num_key_value_heads": 2}
MAMBA = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
architectures = pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS_BT).logits


def adapted(architecture=LLAMA, *, trained: bool = True, **options):
    """A tiny model with adapters, which say something where ``trained``."""
    lm = built(architecture)
    add_adapters(lm.model, LoraConfig(rank=4, **options), seed=0)
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in lm.model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lm


@architectures
def test_fresh_adapters_change_no_bit(architecture):
    assert torch.equal(logits(built(architecture).model), logits(adapted(architecture, trained=False).model))


@architectures
def test_only_adapters_are_trained_and_none_sits_at_the_head(architecture):
    model = adapted(architecture).model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert not any("lm_head" in name for name in trained)


def test_alpha_is_twice_the_rank_unless_set_and_targets_can_be_named():
    model = adapted(targets=["q_proj", "v_proj"]).model
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "v_proj"}
    assert {layer.scaling["default"] for layer in layers.values()} == {2.0}
    assert adapted(alpha=1.0).model.get_submodule("model.layers.0.mlp.up_proj").scaling["default"] == 0.25


@architectures
def test_head_of_trunk_are_the_logits_of_a_model_with_adapters_too(architecture):
    check_parity(adapted(architecture).model)


@architectures
def test_with_adapters_off_a_model_is_its_base_and_then_itself_again(architecture):
    model = adapted(architecture).model
    before = logits(model)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with adapters_off(model):
        off = logits(model)
    assert torch.equal(off, logits(built(architecture).model))
    assert not torch.equal(off, before)
    assert torch.equal(logits(model), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


def test_gradient_checkpointing_changes_no_gradient_of_an_adapter():
    """Also where nothing before the first checkpoint needs a gradient."""
    gradients = []
    for checkpointing in (False, True):
        model = built(LLAMA, gradient_checkpointing=checkpointing).model
        add_adapters(model, LoraConfig(rank=4), seed=0)
        model.train()
        model(input_ids=IDS_BT).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    assert any(gradient.any() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_a_model_without_adapters_has_none_to_switch_off():
    model = built().model
    with adapters_off(model):
        assert not has_adapters(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


@architectures
def test_a_saved_model_is_plain_and_says_what_the_adapted_one_says(architecture, tmp_path):
    lm = adapted(architecture)
    before, tensors = logits(lm.model), {n: t.clone() for n, t in lm.model.state_dict().items()}
    lm.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert plain.state_dict().keys() == built(architecture).model.state_dict().keys()
    torch.testing.assert_close(logits(plain), before, rtol=1e-5, atol=1e-5)
    # and the adapted one goes on as if nothing had been saved
    assert has_adapters(lm.model)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in lm.model.state_dict().items())
    assert any(parameter.requires_grad for parameter in lm.model.parameters())


@architectures
def test_merged_saved_and_loaded_weights_are_the_same_to_the_last_bit(architecture, tmp_path):
    lm = adapted(architecture)
    lm.save(tmp_path / "saved")
    state = merged_state(lm.model)
    merge_adapters(lm.model)
    assert state.keys() == lm.model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in lm.model.state_dict().items())
    assert not has_adapters(lm.model)
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    assert weights_hash(loaded(tmp_path / "saved").model) == weights_hash(lm.model)
    check_parity(lm.model)


# -- adapters on disk ----------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """(directory of a base, directory of an adapter of it, the adapted model)"""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    built(LLAMA).save(base)
    lm = adapted(LLAMA)
    config = ModelConfig(name="base", path=str(base))
    sha256 = weights_hash(loaded(base).model)
    lm.save_adapter(adapter, base_of(config, weights="float32", sha256=sha256))
    return base, adapter, lm


def test_an_adapter_is_loaded_on_its_base_as_the_plain_model_it_amounts_to(kept):
    _, adapter, lm = kept
    names = {path.name for path in adapter.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json"}
    assert "model.safetensors" not in names
    again = loaded(adapter)
    before = logits(lm.model)
    torch.testing.assert_close(logits(again.model), before, rtol=1e-5, atol=1e-5)
    merge_adapters(lm.model)
    assert weights_hash(again.model) == weights_hash(lm.model)
    assert all(parameter.requires_grad for parameter in again.model.parameters())


def test_peft_reads_our_adapters(kept):
    base, adapter, lm = kept
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(logits(theirs), logits(lm.model), rtol=1e-6, atol=1e-6)


def test_we_read_adapters_of_pefts(kept, tmp_path):
    base, _, lm = kept
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, init_lora_weights=False)
    )
    theirs.save_pretrained(tmp_path / "theirs")
    lm.tokenizer.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(
        logits(loaded(tmp_path / "theirs").model), logits(theirs), rtol=1e-5, atol=1e-5
    )


def test_an_adapter_of_a_rounded_base_is_loaded_on_a_rounded_base(kept):
    _, adapter, lm = kept
    note = json.loads((adapter / "base.json").read_text())
    (adapter / "base.json").write_text(json.dumps(note | {"weights": "bfloat16"}))
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if ".lora_" not in name:
                parameter.copy_(parameter.bfloat16())
    merge_adapters(lm.model)
    assert weights_hash(loaded(adapter).model) == weights_hash(lm.model)


def test_an_adapter_whose_base_is_gone_or_changed_is_refused(kept, tmp_path):
    base, adapter, _ = kept
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"the base of the adapter at .* is gone: no `.*/base`"):
        loaded(adapter)
    built(LLAMA, seed=1).save(base)
    with pytest.raises(UserError, match=r"was trained on other weights than those in `.*/base` now"):
        loaded(adapter)


def test_an_adapter_that_is_torn_or_of_another_model_is_refused(kept, tmp_path):
    _, adapter, _ = kept
    other = {**LLAMA, "num_hidden_layers": 1}
    built(other).save(tmp_path / "shallow")
    note = json.loads((adapter / "base.json").read_text())
    for path, match in (("shallow", "does not fit its base"), ("base", "cannot load the adapter")):
        changed = note | {"path": str(tmp_path / path), "sha256": None}
        (adapter / "base.json").write_text(json.dumps(changed))
        if path == "base":
            (adapter / "adapter_model.safetensors").write_bytes(b"torn")
        with pytest.raises(UserError, match=match):
            loaded(adapter)


def test_a_model_from_an_architecture_is_no_base_of_an_adapter():
    with pytest.raises(UserError, match="needs a base that stays on disk"):
        base_of(ModelConfig(name="tiny", architecture=LLAMA), weights="float32", sha256="")


# -- what cannot be adapted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "message", "hint"),
    [
        (["q_prj"], "no linear layer called `q_prj`", "`q_proj`"),
        (["zzz"], "no linear layer called `zzz`", "`gate_proj`"),
        (["mlp"], "no linear layer called `mlp`", ""),
        (["embed_tokens"], "no linear layer called `embed_tokens`", ""),
        (["q_proj", "lm_head"], "`lm_head` is the head", "leave it out"),
    ],
)
def test_targets_that_are_no_linear_layers_are_refused(targets, message, hint):
    with pytest.raises(UserError, match=message) as refusal:
        adapted(targets=targets)
    assert hint in refusal.value.hint


@pytest.mark.parametrize(
    ("architecture", "message"),
    [(MAMBA, "peft cannot adapt a `MambaForCausalLM`"), (MIXTRAL, "`model.layers.0.mlp.gate` would be no")],
    ids=["mamba", "mixtral"],
)
def test_a_model_that_peft_cannot_handle_is_refused(architecture, message):
    with pytest.raises(UserError, match=message):
        adapted(architecture)


def test_the_attention_of_a_mixture_of_experts_can_be_adapted():
    lm = adapted(MIXTRAL, targets=["q_proj", "v_proj"])
    before = logits(lm.model)
    merge_adapters(lm.model)
    torch.testing.assert_close(logits(lm.model), before, rtol=1e-5, atol=1e-5)
