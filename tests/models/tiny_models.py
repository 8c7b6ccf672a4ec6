"""Models of a few thousand weights, made in milliseconds and loaded as a user's are."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from mari_cli.config import Device, ModelConfig, Precision
from mari_cli.models.device import choose_compute
from mari_cli.models.load import LanguageModel, load_model, load_tokenizer
from mari_cli.models.tokenizer import train_tokenizer

TEXT = "The cat sat on the mat. It is raining again; 1234 drops fell on Anna's roof, and nobody heard them."
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
"""What most architectures call their sizes."""


@lru_cache
def tokenizer() -> Any:
    return train_tokenizer([TEXT] * 3, 320)


def compute(device: str = "cpu", precision: str = "float32"):
    return choose_compute(Device(device), Precision(precision))


def built(
    architecture: dict[str, Any] = GPT2,
    *,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    **options,
) -> LanguageModel:
    """A model from its architecture."""
    config = ModelConfig(name="tiny", architecture=architecture, tokenizer="train")
    return load_model(config, tokenizer(), compute(device, precision), seed=seed, **options)


def loaded(path: Path, **options) -> LanguageModel:
    """The model at ``path``, with its own tokenizer."""
    config = ModelConfig(name="loaded", path=str(path), **options)
    return load_model(config, load_tokenizer(config, []), compute(), seed=0)
