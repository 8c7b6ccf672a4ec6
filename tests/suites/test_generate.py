"""Answers are greedy whatever a checkpoint ships, and end where the checkpoint says."""

import json

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import GenerationConfig

from mari_cli.config import Device, ModelConfig, Precision
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model, load_tokenizer
from mari_cli.models.speaking import stops
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.progress import silent
from mari_cli.suites.generate import generate
from mari_cli.suites.lm_model import InMemory

SHAPE = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
QUESTIONS = [[5, 9, 33], [7, 8, 9, 10, 11]]
ROOM = 12


@pytest.fixture(scope="module")
def lm():
    config = ModelConfig(name="tiny", architecture=SHAPE, tokenizer="train")
    compute = choose_compute(Device.cpu, Precision.float32)
    tokenizer = train_tokenizer(["The cat sat on the mat; 1234 drops fell on the roof."], 320)
    return load_model(config, tokenizer, compute, seed=0)


@torch.no_grad()
def greedy(lm, question: list[int], ends: set[int]) -> list[int]:
    """The oracle: a whole forward pass for each token, and its largest logit."""
    ids = list(question)
    for _ in range(ROOM):
        token = int(lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(question) :]


def said(lm, questions=QUESTIONS) -> list[list[int]]:
    return generate(lm, questions, max_new_tokens=ROOM, batch_size=2, track=silent, description="")


@pytest.fixture(scope="module")
def first(lm) -> int:
    """The token that the greedy answer to the first question begins with."""
    return greedy(lm, QUESTIONS[0], {1})[0]


SETTINGS = {
    "repetition_penalty": {"repetition_penalty": 5.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": ["first"]},
    "begin_suppress_tokens": {"begin_suppress_tokens": ["first"]},
    "bad_words_ids": {"bad_words_ids": [["first"]]},
    "sequence_bias": {"sequence_bias": [[["first"], -50.0]]},
    "forced_bos_token_id": {"forced_bos_token_id": 4},
    "forced_eos_token_id": {"forced_eos_token_id": 4},
    "min_length": {"min_length": 40, "eos_token_id": [1, "first"]},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": [1, "first"]},
    "exponential_decay": {"exponential_decay_length_penalty": [1, 99.0]},
    "beams": {"num_beams": 3, "length_penalty": -5.0},
    "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 50},
    "filters": {"do_sample": True, "min_p": 0.1, "typical_p": 0.2, "epsilon_cutoff": 0.1},
    "contrastive search": {"penalty_alpha": 0.9, "top_k": 8},
    "dola": {"dola_layers": "high"},
    "max_length": {"max_length": 4},
    "max_new_tokens": {"max_new_tokens": 2},
    "max_time": {"max_time": 0.0},
    "stop_strings": {"stop_strings": ["a", "e"]},
    "guidance": {"guidance_scale": 3.0},
    "watermark": {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 50.0}},
    "several answers": {"num_beams": 2, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "another output": {"return_dict_in_generate": True, "output_scores": True},
    "no pad": {"pad_token_id": None},
    "no EOS": {"eos_token_id": None},
    "EOS that ends": {"eos_token_id": "first"},
    "EOS list": {"eos_token_id": [1, 0, "first"]},
}


def with_first(value, first: int):
    """``value`` with the token itself where it says `first`."""
    if isinstance(value, list):
        return [with_first(inner, first) for inner in value]
    return first if value == "first" else value


@pytest.mark.parametrize("name", SETTINGS)
def test_an_answer_is_the_greedy_one_whatever_the_checkpoint_sets(lm, first, name, monkeypatch):
    settings = {key: with_first(value, first) for key, value in SETTINGS[name].items()}
    own = GenerationConfig(**{"eos_token_id": 1} | settings)
    monkeypatch.setattr(lm.model, "generation_config", own)
    ends = {1, first} if "first" in str(SETTINGS[name].get("eos_token_id")) else {1}
    assert said(lm) == [greedy(lm, question, ends) for question in QUESTIONS]
    assert lm.model.generation_config is own  # what is saved with the weights is what came with them


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("generation_config.json", {"repetition_penalty": 5.0, "temperature": 0.6, "do_sample": False}),
        ("generation_config.json", {"eos_token_id": [1, "first"], "min_length": 40}),
        ("config.json", {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 2}),
        ("config.json", {"eos_token_id": [1, "first"], "min_length": 40}),
    ],
)
def test_settings_in_any_file_of_a_checkpoint_change_no_answer_and_can_be_saved(
    lm, first, file, values, tmp_path
):
    """Before there was a generation_config.json, config.json held such settings."""
    lm.save(tmp_path / "model")
    if file == "config.json":
        (tmp_path / "model" / "generation_config.json").unlink()
    content = json.loads((tmp_path / "model" / file).read_text())
    values = {key: with_first(value, first) for key, value in values.items()}
    (tmp_path / "model" / file).write_text(json.dumps(content | values))
    config = ModelConfig(name="x", path=str(tmp_path / "model"))
    loaded = load_model(config, load_tokenizer(config, []), lm.compute, seed=0)
    ends = {1, first} if "eos_token_id" in values else {1}
    assert stops(loaded.model, loaded.tokenizer) == sorted(ends)
    assert said(loaded) == [greedy(lm, question, ends) for question in QUESTIONS]
    loaded.save(tmp_path / "saved")
    config = ModelConfig(name="x", path=str(tmp_path / "saved"))
    again = load_model(config, load_tokenizer(config, []), lm.compute, seed=0)
    assert stops(again.model, again.tokenizer) == sorted(ends)


def asked_by_a_benchmark(lm, **settings) -> list[str]:
    requests = [
        Instance("generate_until", {}, (text, {"until": ["\n\n"], "max_gen_toks": ROOM} | settings), i)
        for i, text in enumerate(["The cat", "drops fell"])
    ]
    return InMemory(lm, batch_size=2).generate_until(requests)


@pytest.mark.parametrize("name", ["repetition_penalty", "suppress_tokens", "beams", "sampling", "max_length"])
def test_a_benchmark_gets_greedy_answers_whatever_the_checkpoint_sets(lm, first, name, monkeypatch):
    plain = asked_by_a_benchmark(lm)
    assert plain == [
        lm.tokenizer.decode(greedy(lm, lm.tokenizer(text)["input_ids"], {1}), skip_special_tokens=True)
        for text in ("The cat", "drops fell")
    ]
    settings = {key: with_first(value, first) for key, value in SETTINGS[name].items()}
    monkeypatch.setattr(lm.model, "generation_config", GenerationConfig(eos_token_id=1, **settings))
    assert asked_by_a_benchmark(lm) == plain


def test_a_benchmarks_own_settings_are_kept(lm):
    plain = asked_by_a_benchmark(lm)
    assert asked_by_a_benchmark(lm, do_sample=False, repetition_penalty=5.0) != plain
