"""A model's shapes without its weights, made from its configuration on torch's `meta` device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from mari_cli.config import ModelConfig
from mari_cli.errors import UserError
from mari_cli.models.checks import config_of
from mari_cli.models.files import (
    UNREADABLE,
    check_files,
    check_shapes,
    check_sizes,
    explain_damage,
    retold,
    unbuildable,
)
from mari_cli.models.load import place_of, silence_transformers, switch_off_dropout
from mari_cli.models.locate import is_adapter, require_named
from mari_cli.models.lora import read_base, require_base, shape_adapter

_LLAMA_1B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "max_position_embeddings": 131072, "tie_word_embeddings": True,
}  # fmt: skip
_LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": _LLAMA_1B,
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_1B,
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "openai-community/gpt2-large": {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 1280, "n_layer": 36, "n_head": 20,
        "n_positions": 1024,
    },
    "Xenova/llama2.c-stories15M": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 288, "intermediate_size": 768,
        "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6,
        "max_position_embeddings": 256, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Published shapes of models by their names on the hub, so that a model behind a licence can be planned
without a download."""


def skeleton(
    config: ModelConfig, *, vocabulary: int | None, dropout: bool = False
) -> tuple[PreTrainedModel, str]:
    """The model of ``config`` without weights, and the source of its shapes, in words.

    ``vocabulary`` is the number of tokens of the tokenizer, for a model from an architecture. UserError is
    raised where no shapes are found.
    """
    silence_transformers()
    architecture, source = _shapes(config, vocabulary)
    try:
        check_sizes(architecture)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                architecture, dtype=torch.float32, trust_remote_code=config.trust_remote_code
            )
        check_shapes(model)
    except UNREADABLE as error:
        if config.path is not None:
            raise retold(config.path, error, "model") from error
        raise unbuildable(architecture.model_type, error) from error
    if config.path is not None and is_adapter(directory := Path(place_of(config.path)[0])):
        shape_adapter(model, directory, read_base(directory))
    if not dropout:
        switch_off_dropout(model)
    return model, source


def _shapes(config: ModelConfig, vocabulary: int | None) -> tuple[PreTrainedConfig, str]:
    require_named(config)
    if config.path is None:
        ours = {} if vocabulary is None else {"vocab_size": vocabulary}
        return config_of(config.architecture or {}, **ours), "model.architecture"
    place, arguments = place_of(config.path)
    if is_adapter(Path(place)):
        base = require_base(Path(place))
        shapes, _ = _shapes(replace(config, path=base.path, revision=base.revision), vocabulary)
        return shapes, f"{place}, merged into {base.path}"
    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code, **arguments}
    if Path(place).is_dir() and not arguments:
        with explain_damage(config.path, "model"):
            check_files(Path(place), weights=any(Path(place).glob("*.safetensors")))
    try:  # a directory, or a model that was downloaded before
        return AutoConfig.from_pretrained(place, local_files_only=True, **options), place
    except UNREADABLE as error:
        if config.path in PUBLISHED:
            return config_of(PUBLISHED[config.path]), "as published"
        try:
            return AutoConfig.from_pretrained(place, **options), "the hub"
        except UNREADABLE:
            told = retold(config.path, error, "model")
    raise UserError(
        str(told),
        "its shapes are enough: `model.path=null` and "
        "`model.architecture={model_type: llama, vocab_size: 128256, hidden_size: 2048, …}`",
    )
