"""The hashes that identify a model, and the key under which every cache keeps values computed with it."""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mari_cli.storage import hashing

if TYPE_CHECKING:  # which imports this file
    from mari_cli.models.load import LanguageModel

UNIMPORTANT = ("_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "dtype")
"""Fields of a configuration that are not in a key: the origin of the model, which changes no number, and
fields that the key has elsewhere (the class, its code, the types of the weights)."""


# -- weights -------------------------------------------------------------------------------------------------


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Content hash of the names, shapes, types and bytes of ``tensors``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_hash(model: torch.nn.Module) -> str:
    """Content hash of all weights, by name."""
    return tensors_hash(model.state_dict())


# -- keys ----------------------------------------------------------------------------------------------------


def cache_key(
    kind: str, definition: int | str, model: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The key of a cached value: everything that determines a value computed with a model.

    ``kind`` names the value, ``definition`` is the version of the code that computes the value, ``model``
    comes from `described`, and ``asked`` holds the inputs: items, settings, seed.
    """
    return {
        "kind": kind,
        "definition": definition,
        "model": dict(model),
        "asked": _canonical(asked),
        "libraries": libraries(),
    }


def described(lm: "LanguageModel", weights: str) -> dict[str, Any]:
    """Every part of ``lm`` that can change a number or a generated word; ``weights`` is the weights' hash.

    The path of the model is left out, because a model gives the same values from every path.
    """
    return {
        "weights": weights,
        "class": type(lm.model).__name__.removeprefix("FSDP"),  # torch adds "FSDP" to a model in shards
        "code": code_hash(lm.model),
        "architecture": architecture(lm.model.config),
        "tokenizer": tokenizer_hash(lm.tokenizer),
        "chat_template": hashing.content_hash(lm.tokenizer.chat_template),
        "style": lm.style.key,
        "stops": lm.stop_token_ids,
        "max_length": lm.max_length,
        "precision": lm.compute.precision,
        "device": lm.device.type,
        "packed": lm.layout.packed,
    }


def libraries() -> dict[str, str]:
    """Versions of the libraries that compute."""
    return {library.__name__: library.__version__ for library in (torch, transformers, tokenizers)}


def architecture(config: Any) -> dict[str, Any]:
    """The settings that the weights do not show: activations, heads, positions, scales."""
    important: dict[str, Any] = _canonical(_drop_unimportant(config.to_dict()))
    return important


def _drop_unimportant(value: Any) -> Any:
    """``value`` without the unimportant fields, at any depth, because a configuration may hold others."""
    if not isinstance(value, dict):
        return value
    return {str(name): _drop_unimportant(inner) for name, inner in value.items() if name not in UNIMPORTANT}


def _canonical(value: Any) -> Any:
    """``value`` as JSON holds it, with sorted names, so that equal content gives equal text. NaN and infinity
    become text, because JSON has neither."""
    match value:
        case dict():
            named = {str(name): _canonical(inner) for name, inner in value.items()}
            return dict(sorted(named.items()))
        case list() | tuple():
            return [_canonical(inner) for inner in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def code_hash(model: torch.nn.Module) -> str | None:
    """Content hash of the checkpoint's own code that ``model`` runs (`model.trust_remote_code`); None where
    all code is transformers' own."""
    directories = {
        Path(inspect.getfile(type(module))).parent
        for module in model.modules()
        if type(module).__module__.startswith("transformers_modules")
    }
    files = [file for directory in directories for file in directory.glob("*.py")]
    return hashing.content_hash(sorted(map(hashing.file_hash, files))) if files else None


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Content hash of everything that turns text into tokens and back, without the chat template."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    changeable = {"padding": None, "truncation": None}  # every call may change these two
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = [tokenizer.model_max_length, getattr(tokenizer, "clean_up_tokenization_spaces", None)]
    return hashing.content_hash([content | changeable, special, settings])
