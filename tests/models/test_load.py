"""Models and tokenizers from an architecture, a directory and a GGUF file; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import GPT2, LLAMA, SMALL, TEXT, built, compute, loaded, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mari_cli.config import LEAST_VOCABULARY, ModelConfig
from mari_cli.errors import UserError
from mari_cli.models.load import load_model, load_tokenizer, switch_off_dropout
from mari_cli.models.tokenizer import check_tokenizer, train_tokenizer


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("original") / "model"
    built().save(path)
    return path


@pytest.fixture
def directory(original, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit_config(directory: Path, **values) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(directory: Path, edit) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


# -- from an architecture ------------------------------------------------------------------------------------


def test_the_seed_alone_decides_the_weights_of_a_new_model():
    torch.manual_seed(99)
    first = weights(built(seed=7).model)
    torch.manual_seed(100)
    assert_same(first, weights(built(seed=7).model))
    assert not torch.equal(
        first["transformer.wte.weight"], weights(built(seed=8).model)["transformer.wte.weight"]
    )


def test_a_new_model_takes_its_vocabulary_and_special_tokens_from_the_tokenizer():
    config = built().model.config
    assert config.vocab_size == len(tokenizer())
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer().bos_token_id, tokenizer().eos_token_id)


@pytest.mark.parametrize(
    ("architecture", "message", "hint"),
    [
        ({"n_layer": 1}, "no `model_type`", "gpt2"),
        ({"model_type": "gtp2"}, "no architecture is called `gtp2`", "`gpt2`"),
        (
            GPT2 | {"n_layr": 1},
            "unknown config key `model.architecture.n_layr`",
            "`model.architecture.n_layer`",
        ),
        (GPT2 | {"n_head": 3}, "cannot build a `gpt2`: .*divisible", "model.architecture"),
        (GPT2 | {"n_layer": "two"}, "cannot build a `gpt2`: .*'n_layer'.*'two'", "model.architecture"),
        ({"model_type": "t5"}, "cannot build a `t5`: .*AutoModelForCausalLM$", "model.architecture"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(architecture, message, hint):
    with pytest.raises(UserError, match=message) as refused:
        built(architecture)
    assert hint in refused.value.hint
    assert "\n" not in str(refused.value)


# -- saving and loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_what_is_saved_loads_again_to_the_same_bits(architecture, tmp_path):
    lm = built(architecture)
    lm.save(tmp_path / "model")
    again = loaded(tmp_path / "model")
    assert_same(weights(lm.model), weights(again.model))
    assert again.tokenizer.encode(TEXT) == lm.tokenizer.encode(TEXT)
    assert (again.tokenizer.bos_token_id, again.tokenizer.eos_token_id) == (0, 1)
    assert again.max_length == lm.max_length == 64


def test_plain_transformers_reads_what_is_saved(original):
    model, tok = AutoModelForCausalLM.from_pretrained(original), AutoTokenizer.from_pretrained(original)
    assert_same(weights(model), weights(built().model))
    assert tok.encode(TEXT) == tokenizer().encode(TEXT)
    assert tok.decode(tok.encode(TEXT), skip_special_tokens=True) == TEXT


def test_no_pickle_is_written(original):
    assert {file.name for file in original.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_directory_is_never_overwritten(original):
    before = weights(built().model)
    with pytest.raises(FileExistsError):
        built(seed=1).save(original)
    assert_same(before, weights(loaded(original).model))


def test_a_run_stands_for_its_checkpoint(original, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(original, run / "checkpoint")
    (run / "run.json").write_text("{}")
    assert_same(weights(loaded(run).model), weights(built().model))


def test_a_checkpoint_in_half_precision_is_trained_in_float32(directory):
    edit_weights(directory, lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}))
    edit_config(directory, dtype="bfloat16")
    lm = loaded(directory)
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.float32}


# -- what does not fit ---------------------------------------------------------------------------------------

FC = "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop(FC), f"1 weight is missing, `{FC}` among them"),
        (lambda t: (t.pop(FC), t.pop("transformer.wpe.weight")), "2 weights are missing, `transformer.h.0"),
        (lambda t: t.update({FC: torch.zeros(3, 5)}), f"`{FC}` is [3, 5], not [16, 64]"),
        (lambda t: t.update({FC.replace("h.0", "h.2"): t[FC].clone()}), "more layers than the config says"),
    ],
    ids=["missing", "two missing", "mismatched", "more layers"],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_its_config_is_refused_naming_a_weight(directory, edit, told):
    edit_weights(directory, edit)
    with pytest.raises(UserError) as refused:
        loaded(directory)
    assert f"`{directory}` does not fit its model" in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [FC, "transformer.wpe.weight"])
def test_weights_that_are_no_numbers_are_refused(directory, name, value):
    def edit(tensors):
        tensors[name][1, 2] = value

    edit_weights(directory, edit)
    told = rf"the weights of `{directory}` are damaged: 1 of the \d+ numbers of `{name}` is NaN or infinite"
    with pytest.raises(UserError, match=told):
        loaded(directory)


def test_weights_that_overflow_are_refused(directory):
    edit_weights(directory, lambda t: t["transformer.wte.weight"].fill_(3e38))
    with pytest.raises(UserError, match="the logits of `GPT2LMHeadModel` are NaN or infinite"):
        loaded(directory)


def test_weights_of_something_else_beside_the_model_are_left_alone(directory):
    edit_weights(directory, lambda t: t.update({"value_head.weight": torch.zeros(3)}))
    assert_same(weights(loaded(directory).model), weights(built().model))


def test_a_checkpoint_cut_short_is_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"cannot load a model from `{directory}`"):
        loaded(directory)


def test_pickled_weights_are_refused_and_not_run(directory, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (directory / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb()}, directory / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"are pickled \(`pytorch_model.bin`\)") as refused:
        loaded(directory)
    assert "`save_pretrained`" in refused.value.hint
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_code_beside_a_model_runs_only_where_it_is_asked_for(directory, tmp_path, trusted, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (directory / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n"
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit_config(directory, model_type="own", auto_map=auto_map)
    if trusted:
        lm = loaded(directory, trust_remote_code=True)
        assert type(lm.model).__name__ == "OwnModel"
    else:
        with pytest.raises(UserError, match="runs Python code of its own") as refused:
            loaded(directory)
        assert "`model.trust_remote_code=true`" in refused.value.hint
    assert (tmp_path / "executed").exists() is trusted


def test_a_directory_without_a_config_is_refused(directory):
    (directory / "config.json").unlink()
    with pytest.raises(UserError, match=r"it has no config.json"):
        loaded(directory)


@pytest.mark.parametrize(
    "config",
    ["{", '{"model_type": "gtp2"}', '{"model_type": "t5"}', '{"model_type": "gpt2", "n_layer": "two"}'],
)
def test_a_config_that_makes_no_sense_is_refused_in_one_line(directory, config):
    (directory / "config.json").write_text(config)
    with pytest.raises(UserError, match=f"from `{directory}`") as refused:
        loaded(directory)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.gguf"])
def test_a_path_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"no model at .*: no such file or directory"):
        loaded(tmp_path / name)


def test_a_file_is_no_model(original):
    with pytest.raises(UserError, match=r"config.json` is a file, but a model is a directory"):
        loaded(original / "config.json")


def test_a_run_without_a_checkpoint_is_no_model_and_the_reason_is_told(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is not finished: it has no `result") as refusal:
        loaded(tmp_path)
    assert refusal.value.hint == f"finish it with `--resume {tmp_path}`"
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "run.json").write_text('{"task": "evaluate"}')
    with pytest.raises(UserError, match="holds no model: `mari evaluate` makes none"):
        loaded(tmp_path)
    (tmp_path / "run.json").write_text('{"task": "unlearn"}')
    for name in ("01-a", "02-b"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no model: it has no `checkpoint/`") as refusal:
        loaded(tmp_path)
    assert refusal.value.hint == f"the run of its last request holds it: `{tmp_path / '02-b'}`"


@pytest.mark.parametrize("name", ["some-owner/some-model", "no such name"])
def test_a_name_of_the_hub_without_a_network_is_told_in_one_line(name):
    """tests/conftest.py has set HF_HUB_OFFLINE."""
    for load in (lambda c: load_tokenizer(c, []), lambda c: load_model(c, tokenizer(), compute(), seed=0)):
        with pytest.raises(
            UserError, match=f"`{name}` is no local directory, and cannot be loaded"
        ) as refused:
            load(ModelConfig(name="x", path=name))
        assert "\n" not in str(refused.value)
        assert "connection" in refused.value.hint


def test_no_model_at_all_is_refused():
    with pytest.raises(UserError, match="no model is named"):
        load_model(ModelConfig(name="x"), tokenizer(), compute(), seed=0)


# -- tokenizers ----------------------------------------------------------------------------------------------


def test_a_tokenizer_without_eos_is_refused(directory):
    path = directory / "tokenizer_config.json"
    content = json.loads(path.read_text())
    del content["eos_token"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"the tokenizer of `{directory}` has no EOS token"):
        loaded(directory)


def test_a_model_without_tokenizer_files_is_refused(directory):
    """transformers would make up a tokenizer without a vocabulary."""
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="has no vocabulary") as refused:
        loaded(directory)
    assert "`model.tokenizer=…`" in refused.value.hint


@pytest.mark.parametrize("content", ["{", "{}", '{"version": "1.0"}'])
def test_a_broken_tokenizer_is_refused(directory, content):
    (directory / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=f"cannot load a tokenizer from `{directory}`"):
        loaded(directory)


def test_a_tokenizer_that_reports_no_offsets_is_refused():
    class Slow:
        eos_token_id, is_fast = 1, False

        def __call__(self, text, **_):
            return {"input_ids": [3]}

    with pytest.raises(UserError, match="reports no character offsets"):
        check_tokenizer(Slow(), "x")


def test_the_smallest_vocabulary_is_every_byte_and_two_ends():
    assert len(train_tokenizer(["aaaa"] * 9, LEAST_VOCABULARY)) == LEAST_VOCABULARY


def test_an_architecture_needs_to_be_told_its_tokenizer():
    with pytest.raises(UserError, match="has no tokenizer of its own"):
        load_tokenizer(ModelConfig(name="x", architecture=GPT2), [])


def test_where_no_model_is_named_the_message_says_so():
    with pytest.raises(UserError, match="no model is named") as refusal:
        load_tokenizer(ModelConfig(name="pretrained"), [])
    assert "mari audit" in refusal.value.hint


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused(directory):
    larger = train_tokenizer([TEXT + " Elsewhere, much larger words were spoken."], 400)
    with pytest.raises(
        UserError, match=rf"the tokenizer has {len(larger)} tokens, the model .* only {len(tokenizer())}"
    ):
        load_model(ModelConfig(name="x", path=str(directory)), larger, compute(), seed=0)


def test_a_model_with_spare_rows_takes_a_smaller_tokenizer(tmp_path):
    """Vocabularies are padded to round numbers by many who train models."""
    lm = built()
    lm.model.resize_token_embeddings(len(tokenizer()) + 7)
    lm.save(tmp_path / "padded")
    assert loaded(tmp_path / "padded").model.config.vocab_size == len(tokenizer()) + 7


@pytest.mark.parametrize(("max_length", "expected"), [(None, 64), (10, 10), (64, 64)])
def test_the_longest_sequence_is_the_context_or_what_is_asked_for(original, max_length, expected):
    assert loaded(original, max_length=max_length).max_length == expected


def test_a_length_beyond_the_context_is_refused_before_the_weights_are_read(original, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights read"))
    with pytest.raises(UserError, match=r"model.max_length=65 exceeds the context of .*, 64 tokens"):
        loaded(original, max_length=65)


def test_a_length_beyond_the_context_is_refused_before_the_model_is_on_its_device(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_, **__: pytest.fail("on its device"))
    config = ModelConfig(name="tiny", architecture=GPT2, tokenizer="train", max_length=65)
    with pytest.raises(UserError, match=r"model.max_length=65 exceeds the context"):
        load_model(config, tokenizer(), compute(), seed=0)


# -- dropout and gradient checkpointing ----------------------------------------------------------------------

RATES = {
    "gpt2": GPT2 | {"resid_pdrop": 0.5, "embd_pdrop": 0.4, "attn_pdrop": 0.3},
    "llama": LLAMA | {"attention_dropout": 0.5},
    "gpt_neox": SMALL | {"model_type": "gpt_neox", "hidden_dropout": 0.5, "attention_dropout": 0.5},
    "opt": {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    | {"model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 16}
    | {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "bloom": {"model_type": "bloom", "n_layer": 2, "n_head": 2, "hidden_size": 16}
    | {"hidden_dropout": 0.5, "attention_dropout": 0.5},
}
IDS = torch.arange(2, 26).view(2, 12)


def rates(config: dict) -> dict:
    return {name: value for name, value in config.items() if "drop" in name}


@pytest.mark.parametrize("name", RATES)
def test_dropout_is_off_in_every_mode_but_stays_in_the_saved_config(name, tmp_path):
    architecture = RATES[name]
    lm = built(architecture)
    with torch.no_grad():
        calm = lm.model(input_ids=IDS, use_cache=False).logits
        lm.model.train()
        assert torch.equal(lm.model(input_ids=IDS, use_cache=False).logits, calm)
    lm.save(tmp_path / "model")
    saved = rates(json.loads((tmp_path / "model" / "config.json").read_text()))
    assert saved.items() >= rates(architecture).items()
    assert_same(weights(loaded(tmp_path / "model").model), weights(lm.model))


@pytest.mark.parametrize("name", RATES)
def test_dropout_is_kept_where_it_is_asked_for(name):
    lm = built(RATES[name], dropout=True)
    lm.model.train()
    torch.manual_seed(1)
    with torch.no_grad():
        a, b = (lm.model(input_ids=IDS, use_cache=False).logits for _ in range(2))
    assert not torch.equal(a, b)
    switch_off_dropout(lm.model)
    with torch.no_grad():
        a, b = (lm.model(input_ids=IDS, use_cache=False).logits for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradient_checkpointing_changes_no_gradient(name):
    def gradients(**options):
        lm = built(RATES[name], **options)
        lm.model.train(bool(options))
        forwards = []
        mlp = next(module for path, module in lm.model.named_modules() if path.endswith("0.mlp"))
        mlp.register_forward_pre_hook(lambda *_: forwards.append(1))
        lm.model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        return len(forwards), {name: p.grad for name, p in lm.model.named_parameters()}

    once, plain = gradients()
    twice, checkpointed = gradients(gradient_checkpointing=True)
    assert (once, twice) == (1, 2)
    assert_same(plain, checkpointed)


# -- GGUF ----------------------------------------------------------------------------------------------------

gguf = pytest.importorskip("gguf", reason="needs the gguf package (`pip install mari-cli[gguf]`)")


def write_gguf(path: Path, model: LlamaForCausalLM, *, without: str = "") -> None:
    """As llama.cpp does: its names of keys and tensors, query and key rows in its rotary order."""
    config, tok = model.config, tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tok))
    tokens = sorted(tok.get_vocab(), key=tok.get_vocab().__getitem__)
    special = {tok.bos_token, tok.eos_token}
    merges = json.loads(tok.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tok.bos_token_id)
    writer.add_eos_token_id(tok.eos_token_id)
    writer.add_add_bos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == without:
            continue
        for projection, count in heads.items():
            if projection in name:
                halves = tensor.view(count, 2, -1, tensor.shape[-1])
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    fields = {name: value for name, value in LLAMA.items() if name != "model_type"}
    return LlamaForCausalLM(
        LlamaConfig(**fields, vocab_size=len(tokenizer()), bos_token_id=0, eos_token_id=1)
    )


def test_a_gguf_file_loads_saves_and_loads_again(llama, tmp_path):
    """Its vocabulary too: transformers appends a token to it for which the model has no row."""
    write_gguf(tmp_path / "tiny.gguf", llama)
    lm = loaded(tmp_path / "tiny.gguf")
    assert_same(weights(lm.model), weights(llama))
    assert lm.max_length == 64
    assert len(lm.tokenizer) == len(tokenizer())
    assert lm.tokenizer.encode(TEXT) == tokenizer().encode(TEXT)
    assert (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id) == (0, 1)
    lm.save(tmp_path / "saved")
    again = loaded(tmp_path / "saved")
    assert_same(weights(again.model), weights(llama))
    assert again.tokenizer.encode(TEXT) == tokenizer().encode(TEXT)


def test_a_gguf_file_without_a_weight_is_refused(llama, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    write_gguf(tmp_path / "tiny.gguf", llama, without=name)
    with pytest.raises(UserError, match=f"1 weight is missing, `{name}`"):
        loaded(tmp_path / "tiny.gguf")


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"not one")
    with pytest.raises(UserError, match="is not a GGUF file"):
        loaded(tmp_path / "tiny.gguf")
