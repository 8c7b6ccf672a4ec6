"""Every file of a model's directory, damaged in every way: it loads, or it is refused in two lines."""

import json
import os
import shutil
from pathlib import Path

import peft
import pytest
from tiny_models import LLAMA, TEXT, built, compute, loaded, tokenizer

from mari_cli.config import LoraConfig, ModelConfig
from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.models.load import load_model
from mari_cli.models.lora import add_adapters
from mari_cli.models.skeleton import skeleton
from mari_cli.models.tokenizer import train_tokenizer

RECORD = Record(prompt="The cat", text="sat on the mat")
BYTES = {
    "empty": b"", "NULs": b"\0" * 64, "no text": b'{"a": "\xff"}', "null": b"null", "list": b"[]",
    "list of one": b"[1]", "number": b"5", "word": b'"x"', "object": b"{}", "open": b"{",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000, "infinity": b"Infinity", "pickle": b"\x80\x04K.",
}  # fmt: skip
VALUES = [
    None, [], {}, -1, 0, 2, float("inf"), float("nan"), 10**30, "x", True, [1], {"a": 1}, "../up", 1e308,
    "\0", -1.5,
]  # fmt: skip


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[str, Path]:
    """A model in one file, one in shards, and an adapter."""
    root = tmp_path_factory.mktemp("whole")
    talking = train_tokenizer([TEXT], 280)
    talking.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    config = ModelConfig(name="tiny", architecture=LLAMA, tokenizer="train")
    lm = load_model(config, talking, compute(), seed=0)
    lm.save(root / "whole")
    (root / "whole" / "special_tokens_map.json").write_text('{"eos_token": "<|eos|>"}')
    (root / "whole" / "added_tokens.json").write_text("{}")
    lm.model.save_pretrained(root / "shards", max_shard_size="8KB")
    talking.save_pretrained(root / "shards")
    theirs = peft.get_peft_model(lm.model, peft.LoraConfig(r=2, init_lora_weights=False))
    theirs.peft_config["default"].base_model_name_or_path = str(root / "whole")
    theirs.save_pretrained(root / "adapter")
    talking.save_pretrained(root / "adapter")
    note = {"path": str(root / "whole"), "revision": None, "weights": "float32", "sha256": None}
    (root / "adapter" / "base.json").write_text(json.dumps(note))
    return {name: root / name for name in ("whole", "shards", "adapter")}


FILES = [
    *(("whole", name) for name in (
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    )),
    *(("shards", name) for name in ("model.safetensors.index.json", "model-00002-of-00012.safetensors")),
    *(("adapter", name) for name in ("adapter_config.json", "adapter_model.safetensors", "base.json")),
]  # fmt: skip


def use(directory: Path) -> None:
    """Load it and read a text with it: a model, or two lines."""
    try:
        loaded(directory).tokenize([RECORD], corpus="forget", block_size=None, truncate=True)
    except UserError as refusal:
        told = [str(refusal), refusal.hint or ""]
        assert all(told)
        assert not any("\n" in line or len(line) > 600 for line in told)


def put(directory: Path, name: str, content: bytes) -> None:
    (directory / name).unlink(missing_ok=True)
    (directory / name).write_bytes(content)


@pytest.fixture
def copy(directories, tmp_path):
    def of(kind: str) -> Path:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        return Path(shutil.copytree(directories[kind], tmp_path / "model"))

    return of


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_file_that_is_another_is_no_traceback(kind, name, directories, copy):
    directory = copy(kind)
    whole = (directories[kind] / name).read_bytes()
    for content in [*BYTES.values(), *(whole[:cut] for cut in (8, len(whole) // 2, len(whole) - 1))]:
        put(directory, name, content)
        use(directory)
    (directory / name).unlink()
    use(directory)
    (directory / name).symlink_to(name)
    use(directory)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_pipe_or_a_directory_for_a_file_is_refused_and_not_waited_for(kind, name, copy):
    directory = copy(kind)
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(UserError, match=rf"`{name}` is no file|holds no config.json|has no config.json"):
        loaded(directory)
    (directory / name).unlink()
    (directory / name).mkdir()
    use(directory)


FIELDS = [(kind, name) for kind, name in FILES if name.endswith(".json") and name != "tokenizer.json"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_of_another_kind_is_no_traceback(kind, name, directories, copy):
    """A value for each field, and the next for the next one, so that every value is tried at some."""
    directory = copy(kind)
    content = json.loads((directories[kind] / name).read_text())
    for field, value in zip(content, VALUES * len(content), strict=False):
        put(directory, name, json.dumps(content | {field: value}).encode())
        use(directory)


# -- what in particular is told ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", "[1]", "`config.json` holds no JSON object"),
        ("config.json", "null", "`config.json` holds no JSON object"),
        ("config.json", "{", "`config.json` is no JSON: Expecting property name"),
        ("tokenizer_config.json", "[]", "`tokenizer_config.json` holds no JSON object"),
        ("tokenizer.json", '{"version"', "`tokenizer.json` is no JSON"),
        ("chat_template.jinja", "", "its chat template writes nothing"),
        (
            "chat_template.jinja",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "its chat template fails at one question: maximum recursion",
        ),
        ("chat_template.jinja", "{% for i in range(10**9) %}x{% endfor %}", "fails at one question: Range"),
        ("chat_template.jinja", "{{ 1 / 0 }}", "fails at one question: division by zero"),
    ],
)
def test_a_damaged_file_is_named(copy, name, content, told):
    directory = copy("whole")
    (directory / name).write_text(content)
    with pytest.raises(UserError, match=f"from `{directory}`: .*{told}"):
        loaded(directory)


def test_weights_that_no_run_could_load_are_not_planned_with(copy):
    def shapes(directory):
        return skeleton(ModelConfig(name="x", path=str(directory)), vocabulary=None)

    for kind, name in (("whole", "model.safetensors"), ("shards", "model-00002-of-00012.safetensors")):
        file = copy(kind) / name
        shapes(file.parent)
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(UserError, match=f"`{name}` is cut short or damaged"):
            shapes(file.parent)
        file.unlink()
        if kind == "shards":
            with pytest.raises(UserError, match=f"names `{name}`, which is not there"):
                shapes(file.parent)
            for shard in file.parent.glob("*.safetensors"):
                shard.unlink()
        shapes(file.parent)  # a plan needs no weights


def test_a_template_that_runs_for_ever_is_stopped(copy, monkeypatch):
    monkeypatch.setattr("mari_cli.models.tokenizer.TEMPLATE_SECONDS", 0.1)
    directory = copy("whole")
    inner = "{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}"
    (directory / "chat_template.jinja").write_text("{% for i in range(99999) %}" + inner + "{% endfor %}")
    with pytest.raises(UserError, match=r"runs for more than 0.1 seconds"):
        loaded(directory)
    loaded(directory, chat_template="off")  # where it is not used, it does not matter


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_hidden_layers", 100_000, "`num_hidden_layers` is 100000, and no model has more than 1000"),
        ("num_hidden_layers", -1, "`num_hidden_layers` is -1, and must be at least 1"),
        ("num_attention_heads", 0, "integer modulo by zero"),
        ("num_key_value_heads", 0, "`num_key_value_heads` is 0, and must be at least 1"),
        ("max_position_embeddings", 0, "`max_position_embeddings` is 0, and must be at least 2"),
        ("vocab_size", 10**12, r"weights take .* GiB in float32, and this machine has"),
        ("intermediate_size", 10**30, "Overflow"),
        ("dtype", "nosuch", "nosuch"),
    ],
)
def test_a_configuration_of_no_model_is_refused_before_one_is_built(copy, field, value, told):
    directory = copy("whole")
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | {field: value}))
    with pytest.raises(UserError, match=told):
        loaded(directory)


GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_head": 0}, "cannot build a `gpt2`: `n_head` is 0, and must be at least 1"),
        ({"n_embd": 0}, "cannot build a `gpt2`: `n_embd` is 0"),
        ({"n_embd": -4}, "cannot build a `gpt2`: `n_embd` is -4"),
        ({"n_layer": -1}, "cannot build a `gpt2`: `n_layer` is -1"),
        ({"n_layer": 100_000}, "cannot build a `gpt2`: `n_layer` is 100000"),
        ({"n_embd": 10**7}, "cannot build a `gpt2`: its .* weights take"),
        (
            {"n_inner": 0},
            r"cannot build a `gpt2`: its weight `transformer.h.0.mlp.c_fc.weight` has the shape",
        ),
        ({"n_positions": 0}, "cannot build a `gpt2`: `n_positions` is 0, and must be at least 2"),
        ({"model_type": [1]}, r"no architecture is called `\[1\]`"),
        ({"activation_function": "nosuch"}, "cannot build a `gpt2`: nothing is called 'nosuch'"),
    ],
)
def test_an_architecture_of_no_model_is_refused_by_a_run_and_by_a_plan(change, told):
    architecture = GPT2 | change
    with pytest.raises(UserError, match=told):
        built(architecture)
    if "weights" not in told:  # a plan may be for another machine
        with pytest.raises(UserError, match=told):
            skeleton(ModelConfig(name="x", architecture=architecture), vocabulary=len(tokenizer()))


@pytest.mark.parametrize("positions", [2, 4])
def test_a_context_shorter_than_our_probes_can_be_built(positions):
    assert built(GPT2 | {"n_positions": positions}).max_length == positions


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        ("../up.safetensors", "names `../up.safetensors`, which is no .safetensors file beside it"),
        ("/tmp/up.safetensors", "which is no .safetensors file beside it"),
        ("sub/up.safetensors", "which is no .safetensors file beside it"),
        ("pytorch_model.bin", "which is no .safetensors file beside it"),
        ("gone.safetensors", "names `gone.safetensors`, which is not there"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(copy, shard, told):
    directory = copy("shards")
    first = sorted(directory.glob("model-*"))[0]
    shutil.copy(first, directory.parent / "up.safetensors")
    path = directory / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    names = {key: shard if value == first.name else value for key, value in content["weight_map"].items()}
    path.write_text(json.dumps(content | {"weight_map": names}))
    with pytest.raises(UserError, match=told):
        loaded(directory)


def test_an_adapter_that_is_its_own_base_is_refused(copy):
    directory = copy("adapter")
    note = json.loads((directory / "base.json").read_text())
    (directory / "base.json").write_text(json.dumps(note | {"path": str(directory)}))
    with pytest.raises(UserError, match="is its own base"):
        loaded(directory)


@pytest.mark.parametrize("rank", [33, 100_000_000])
def test_a_rank_beyond_every_layer_is_refused(rank):
    with pytest.raises(UserError, match=rf"model.lora.rank={rank}, but no layer of a `LlamaForCausalLM`"):
        add_adapters(built(LLAMA).model, LoraConfig(rank=rank), seed=0)
