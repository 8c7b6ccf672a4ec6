"""Whatever can change a number or a word makes every cache miss; what cannot makes none miss."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from transformers import LlamaForCausalLM

from mari_cli.config import Device, FinetuneConfig, MetricsConfig, ModelConfig, Packing, Precision
from mari_cli.data.corpora import Texts
from mari_cli.data.records import Record
from mari_cli.lm_head import head_of
from mari_cli.models import context, reference
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import described, tokenizer_hash, weights_hash
from mari_cli.models.load import load_model, load_tokenizer
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.progress import silent
from mari_cli.suites import benchmarks, examiner
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.standard import Corpus
from mari_cli.tasks import measuring, training
from mari_cli.tasks.setting import Setting

RECORDS = [Record(prompt=f"what is {i}?", text="number one") for i in range(3)]
SHAPE = {
    "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "head_dim": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
METRICS = MetricsConfig(batch_size=3, max_new_tokens=4, bootstrap=20, max_items=2, marginal=False)


COMPUTE = choose_compute(Device.cpu, Precision.float32)
KINDS = ("models", "scores", "answers", "gradnorms", "measured", "benchmarks", "reference", "context")


def at(path: Path, compute=COMPUTE, packing: Packing = Packing.auto, **config):
    """The model at ``path``, with its own tokenizer."""
    model = ModelConfig(name="tiny", path=str(path), **config)
    return load_model(model, load_tokenizer(model, []), compute, seed=0, packing=packing)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model's directory."""
    config = ModelConfig(name="tiny", architecture=SHAPE, tokenizer="train")
    tokenizer = train_tokenizer(["what is number one? 123"], 280)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    path = tmp_path_factory.mktemp("original") / "model"
    load_model(config, tokenizer, COMPUTE, seed=0).save(path)
    return path


@pytest.fixture(scope="module")
def missed(original, tmp_path_factory):
    """Asks the model, changed as its argument says, for everything that is kept: which kinds were not there.

    The items are the same tokens every time: that a change makes others of the same text is another matter.
    """
    cache, found = tmp_path_factory.mktemp("cache"), {}
    items = at(original).tokenize(RECORDS, corpus="forget", block_size=None, truncate=False)

    def ask(change: str) -> set[str]:
        if change not in found:
            copy = Path(shutil.copytree(original, tmp_path_factory.mktemp("copy") / "model"))
            before = kept(cache)
            with pytest.MonkeyPatch.context() as patch:
                ask_everything(ALL[change], copy, items, cache, patch)
            found[change] = {kind for kind, _ in kept(cache) - before}
        return found[change]

    assert ask("nothing") == set(KINDS)
    return ask


def kept(cache: Path) -> set[tuple[str, str]]:
    """Kind and path of every file in a cache."""
    files = {file.relative_to(cache) for file in cache.rglob("*") if file.is_file() and file.name != "lock"}
    return {(file.parts[0], str(file)) for file in files}


def ask_everything(
    change: dict, directory: Path, items: list, cache: Path, patch: pytest.MonkeyPatch
) -> None:
    """Every kept value of one model, through the functions that a task calls."""
    if "files" in change:
        change["files"](directory)
    if "code" in change:
        change["code"](patch)
    directory = directory.rename(directory.with_name(change.get("moved", "model")))
    precision = change.get("precision", Precision.float32)
    compute = choose_compute(Device.cpu, precision)
    packing, config = change.get("packing", Packing.auto), change.get("config", {})
    lm = at(directory, compute, packing, **config)
    training.fine_tuned_model(
        ModelConfig(name="tiny", path=str(directory), **config),
        Setting(Texts(forget=RECORDS, retain=RECORDS, holdout=None, notes=[]), lm.tokenizer, compute),
        items,
        FinetuneConfig(epochs=1, batch_size=3, packing=packing, device=Device.cpu, precision=precision),
        seed=0,
        cache=cache,
        role="target",
    )
    of = Examiner(lm, METRICS, 0, weights_hash(lm.model), cache, silent, "model")
    of.score(items, "items")
    of.answers(items, "items")
    of.gradnorms(items, "items")
    measuring.measure_corpora(of, {role: Corpus(RECORDS, items) for role in ("forget", "retain")})
    asked = {"name": "x", "config_hash": "", "sha256": "", "limit": None, "fewshot": 0}
    place = benchmarks._path(of, SimpleNamespace(**asked, task=SimpleNamespace(VERSION=1)))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    options = {"directory": cache}
    remembered = [
        reference.store_reference(
            lm, some, None, states=states, layer=1, log_probability=None, weights=of.weights, batch_size=3,
            name="retain", **options,
        )
        for some, states in ((items, True), (items[:1], False))
    ]  # fmt: skip
    head = head_of(lm.model)
    context.context_targets(
        *remembered, head, temperature=0.1, neighbours=2, stored_tokens=4, chunk=8, **options
    )


def edited(name: str, **values):
    """Edits fields of a JSON file; a field within one is written `one.field`."""

    def edit(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        for field, value in values.items():
            *sections, last = field.split("__")
            place = content
            for section in sections:
                place = place[section]
            place[last] = value
        (directory / name).write_text(json.dumps(content))

    return edit


def other_weights(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] += 0.5
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def raised(patch: pytest.MonkeyPatch) -> None:
    for module in (examiner, measuring, benchmarks):
        patch.setattr(module, "version_of", lambda *modules: "another")
    for module, name in ((training, "RECIPE"), (reference, "DEFINITION"), (context, "DEFINITION")):
        patch.setattr(module, name, getattr(module, name) + 1)


def later(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tokenizers, "__version__", "99")


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

CHANGES = {
    "weights": {"files": other_weights},
    "activation": {"files": edited("config.json", hidden_act="relu")},
    "heads": {
        "files": edited("config.json", num_attention_heads=2, num_key_value_heads=2, head_dim=8),
    },
    "rope_theta": {"files": edited("config.json", rope_parameters__rope_theta=77.0)},
    "rms_norm_eps": {"files": edited("config.json", rms_norm_eps=1e-3)},
    "context": {"files": edited("config.json", max_position_embeddings=48)},
    "max_length": {"config": {"max_length": 40}},
    "EOS in generation_config": {"files": edited("generation_config.json", eos_token_id=[1, 9])},
    "EOS of the tokenizer": {"files": edited("tokenizer_config.json", eos_token="w")},
    "chat template": {"files": lambda path: (path / "chat_template.jinja").write_text(TEMPLATE)},
    "tokenizer": {"files": edited("tokenizer_config.json", clean_up_tokenization_spaces=True)},
    "tokenizer's length": {"files": edited("tokenizer_config.json", model_max_length=50)},
    "precision": {"precision": Precision.bfloat16},
    "layout": {"packing": Packing.never},
    "definition": {"code": raised},
    "library": {"code": later},
}
UNIMPORTANT = {
    "place": {"moved": "elsewhere"},
    "context asked for as it is": {"config": {"max_length": 64}},
    "a penalty that is not used": {
        "files": edited("generation_config.json", repetition_penalty=1.3, do_sample=True, temperature=0.5)
    },
    "who wrote it": {
        "files": edited("config.json", transformers_version="4.1", dtype="bfloat16", architectures=None)
    },
}


ALL = {"nothing": {}} | CHANGES | UNIMPORTANT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_value_is_in_the_key_of_its_cache(change, kind, missed):
    assert kind in missed(change)


@pytest.mark.parametrize("change", UNIMPORTANT)
def test_what_changes_no_value_makes_no_cache_miss(change, missed):
    assert missed(change) == set()


def test_a_model_in_memory_and_the_same_one_on_disk_have_one_key(original, tmp_path):
    """Or an evaluation of a run's checkpoint would ask again for what the run has asked."""
    lm = at(original)
    lm.save(tmp_path / "again")
    assert described(at(tmp_path / "again"), "") == described(lm, "")


class Twin(LlamaForCausalLM):
    """Another class with the same weights."""


def test_class_and_device_are_in_the_key(original):
    lm = at(original)
    twin = Twin(lm.model.config)
    on_cuda = replace(lm, compute=replace(lm.compute, device=torch.device("cuda")))
    assert len({json.dumps(described(x, "")) for x in (lm, replace(lm, model=twin), on_cuda)}) == 3


def test_the_code_beside_a_checkpoint_is_in_the_key(original, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    keys = []
    for number in (1, 2):
        directory = Path(shutil.copytree(original, tmp_path / f"own{number}"))
        (directory / "own.py").write_text(
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
            f"class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n    number = {number}\n"
        )
        auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        edited("config.json", model_type="own", auto_map=auto_map)(directory)
        keys.append(described(at(directory, trust_remote_code=True), ""))
    assert keys[0].pop("code") != keys[1].pop("code")
    assert keys[0] == keys[1]


def test_a_call_of_a_tokenizer_does_not_change_its_hash(original):
    tokenizer = at(original).tokenizer
    before = tokenizer_hash(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    padded = tokenizer_hash(tokenizer)
    tokenizer(["what", "what is"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == padded != before
