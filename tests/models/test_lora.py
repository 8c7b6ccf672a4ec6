"""Adapters do nothing at first, then only they are trained, and what they amount to is what is saved."""

import json
import shutil
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import GPT2, LLAMA, SMALL, built, loaded
from transformers import AutoModelForCausalLM

from mari_cli.config import LoraConfig, ModelConfig
from mari_cli.errors import UserError
from mari_cli.lm_head import check_parity
from mari_cli.models.checks import check_saving
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import base_of
from mari_cli.models.lora import adapters_off, add_adapters, has_adapters, merge_adapters, merged_state
from mari_cli.models.skeleton import skeleton

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
def test_head_of_backbone_are_the_logits_of_a_model_with_adapters_too(architecture):
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_holds_no_numbers_is_refused(kept, value):
    _, adapter, _ = kept
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"the weights of `{adapter}` are damaged"):
        loaded(adapter)


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


def other_rank(there):
    settings = json.loads((there / "adapter_config.json").read_text())
    (there / "adapter_config.json").write_text(json.dumps(settings | {"r": 3}))


def other_tensors(change):
    def changed(there):
        tensors = load_file(there / "adapter_model.safetensors")
        change(tensors, next(iter(tensors)))
        save_file(tensors, there / "adapter_model.safetensors")

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        other_rank,
        other_tensors(lambda tensors, name: tensors.pop(name)),
        other_tensors(lambda tensors, name: tensors.update({name: tensors[name][:, 1:].contiguous()})),
        other_tensors(lambda tensors, name: tensors.update({f"{name}s": torch.ones(1)})),
        lambda there: (there / "adapter_model.safetensors").write_bytes(b"torn"),
        lambda there: shutil.move(there.with_name("base"), there.with_name("elsewhere")),
        lambda there: (there / "base.json").write_text(json.dumps({"path": None})),
    ],
    ids=["rank", "one less", "a shape", "one more", "torn", "no base", "no name"],
)  # fmt: skip
def test_an_adapter_is_refused_by_a_plan_as_by_a_run(damage, kept):
    _, adapter, _ = kept
    damage(adapter)
    config, told = ModelConfig(name="x", path=str(adapter)), []
    for load in (lambda: loaded(adapter), lambda: skeleton(config, vocabulary=None)):
        with pytest.raises(UserError) as refusal:
            load()
        told.append((str(refusal.value), refusal.value.hint))
    assert told[0] == told[1]


def test_an_adapter_of_pefts_that_names_no_base_is_told_so(kept):
    _, adapter, _ = kept
    (adapter / "base.json").unlink()
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings.pop("base_model_name_or_path")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="names no base"):
        loaded(adapter)


def test_a_model_from_an_architecture_is_no_base_of_an_adapter():
    with pytest.raises(UserError, match="needs a base that stays on disk"):
        base_of(ModelConfig(name="tiny", architecture=LLAMA), weights="float32", sha256="")


# -- adapters that train more than low-rank layers ----------------------------------------------------------

TIED = LLAMA | {"tie_word_embeddings": True}
BASES = {"untied llama": LLAMA, "tied llama": TIED, "tied gpt2": GPT2}
MORE = {
    "head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"modules_to_save": ["EMBEDDINGS"]},
    "both": {"modules_to_save": ["EMBEDDINGS", "lm_head"]},
    "both, kept tied": {"modules_to_save": ["EMBEDDINGS", "lm_head"], "ensure_weight_tying": True},
    "norms": {"modules_to_save": ["NORM"]},
    "tokens": {"trainable_token_indices": [5, 6]},
    "tokens and norms": {"trainable_token_indices": [5, 6], "modules_to_save": ["NORM"]},
    "low-rank head": {"target_modules": ["lm_head"]},
    "low-rank embeddings": {"target_modules": ["EMBEDDINGS"]},
    "dora": {"use_dora": True, "use_rslora": True, "lora_dropout": 0.5, "bias": "all"},
}
CASES = [(base, kind) for base in ("untied llama", "tied llama") for kind in MORE]
CASES += [("tied gpt2", kind) for kind in ("head", "embeddings", "tokens")]


def of_peft(base, there, tokenizer, *, spare: int = 0, **options):
    """An adapter of peft's in ``there``, saying something, and peft's model with it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if spare:
        model.resize_token_embeddings(model.config.vocab_size + spare)
    names = {"EMBEDDINGS": "wte", "NORM": "ln_f"} if model.config.model_type == "gpt2" else {}
    names = {"EMBEDDINGS": "embed_tokens", "NORM": "norm"} | names
    for key, value in options.items():
        if isinstance(value, list):
            options[key] = [names.get(word, word) for word in value]
    settings = peft.LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    theirs = peft.get_peft_model(model, settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(there)
    tokenizer.save_pretrained(there)
    return theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("base", "kind"), CASES)
def test_whatever_an_adapter_trains_is_loaded_saved_and_loaded_again(base, kind, tmp_path):
    plain = built(BASES[base])
    plain.save(tmp_path / "base")
    theirs = of_peft(tmp_path / "base", tmp_path / "adapter", plain.tokenizer, **MORE[kind])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        lm = loaded(tmp_path / "adapter")
    assert not [warning for warning in warned if "tie" in str(warning.message)]
    torch.testing.assert_close(logits(lm.model), logits(theirs), rtol=1e-5, atol=1e-5)
    tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    assert lm.model.config.tie_word_embeddings is tied
    check_parity(lm.model)
    check_saving(lm)
    lm.save(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert weights_hash(again) == weights_hash(lm.model)
    assert again.state_dict().keys() == plain.model.state_dict().keys()
    # a plan knows the same shapes
    shapes, _ = skeleton(ModelConfig(name="x", path=str(tmp_path / "adapter")), vocabulary=None)
    assert [(n, p.shape) for n, p in shapes.named_parameters()] == [
        (n, p.shape) for n, p in lm.model.named_parameters()
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{}, {"modules_to_save": ["EMBEDDINGS"]}, {"target_modules": ["lm_head"]}]
)
@pytest.mark.parametrize("spare", [7, -7])
def test_an_adapter_of_another_vocabulary_is_refused_naming_both(spare, options, tmp_path):
    plain = built(LLAMA)
    plain.save(tmp_path / "base")
    of_peft(tmp_path / "base", tmp_path / "adapter", plain.tokenizer, spare=spare, **options)
    size = len(plain.tokenizer)
    told = f"has {size + spare} tokens, its base `{tmp_path / 'base'}` {size}"
    config = ModelConfig(name="x", path=str(tmp_path / "adapter"))
    for load in (lambda: loaded(tmp_path / "adapter"), lambda: skeleton(config, vocabulary=None)):
        with pytest.raises(UserError, match=told) as refusal:
            load()
        assert f"resize_token_embeddings({size + spare})" in refusal.value.hint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (peft.IA3Config(task_type="CAUSAL_LM"), "adapts `.*` by a `Linear`"),
        (peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), "cannot load the adapter"),
        (peft.LoraConfig(r=2, target_parameters=["mlp.up_proj.weight"]), "by a `ParamWrapper`"),
        (peft.LoraConfig(r=2, lora_bias=True), "Impossible to merge LoRA with `lora_bias=True`"),
    ],
    ids=["ia3", "prompt tuning", "parameters", "biases of factors"],
)
def test_an_adapter_that_cannot_be_merged_is_refused(settings, told, kept, tmp_path):
    base, _, lm = kept
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "x")
    lm.tokenizer.save_pretrained(tmp_path / "x")
    with pytest.raises(UserError, match=told) as refusal:
        loaded(tmp_path / "x")
    assert "model.lora" not in refusal.value.hint


def test_an_adapter_without_some_of_its_tensors_is_refused(kept, tmp_path):
    base, _, lm = kept
    of_peft(base, tmp_path / "x", lm.tokenizer, modules_to_save=["lm_head"])
    tensors = load_file(tmp_path / "x" / "adapter_model.safetensors")
    head = next(name for name in tensors if "lm_head" in name)
    save_file(
        {name: t for name, t in tensors.items() if name != head}, tmp_path / "x" / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="lm_head"):
        loaded(tmp_path / "x")


@pytest.mark.parametrize("architecture", [TIED, GPT2], ids=["llama", "gpt2"])
def test_a_head_that_the_configuration_ties_but_the_weights_do_not_is_kept(architecture, tmp_path):
    """transformers loads both, and would have lost one of them in saving."""
    lm = built(architecture)
    lm.save(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    head = torch.randn(lm.model.get_output_embeddings().weight.shape)
    save_file(tensors | {"lm_head.weight": head}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    first = loaded(tmp_path / "model")
    assert torch.equal(first.model.get_output_embeddings().weight, head)
    assert first.model.config.tie_word_embeddings is False
    check_saving(first)
    first.save(tmp_path / "again")
    assert weights_hash(loaded(tmp_path / "again").model) == weights_hash(first.model)


def test_a_model_that_could_not_be_loaded_again_is_refused_before_it_is_trained(tmp_path):
    lm = built(TIED)
    check_saving(lm)
    lm.model.lm_head.weight = torch.nn.Parameter(lm.model.lm_head.weight + 1)  # and the configuration ties it
    with pytest.raises(UserError, match=r"could not be loaded again once it is saved: `lm_head.weight` is"):
        check_saving(lm)
    lm = built(LLAMA)
    lm.model.config.intermediate_size += 1
    with pytest.raises(
        UserError, match=r"`model.layers.0.mlp.down_proj.weight` is \[32, 48\], but \[32, 49\]"
    ):
        check_saving(lm)
    lm = built(LLAMA)
    lm.model.model.norm = torch.nn.Identity()
    with pytest.raises(UserError, match=r"`model.norm.weight` is not there"):
        check_saving(lm)


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
