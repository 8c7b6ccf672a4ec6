"""The files of a model: checks of their content, and the error for files that cannot be read.

Other people made the files, so a file may be cut short, of another format, or made to harm. `explain_damage`
turns the exceptions that libraries raise for such files into a UserError.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from mari_cli.errors import UserError
from mari_cli.places import is_there

UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, ImportError, MemoryError, SafetensorError, StrictDataclassError, TemplateError,
)  # fmt: skip
"""The exceptions that libraries raise for a model, a tokenizer or an adapter that they cannot read."""
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.json", "model.safetensors.index.json",
)  # fmt: skip
"""Files that hold one JSON object each."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LEAST = {
    "vocab_size": 1, "hidden_size": 1, "intermediate_size": 1, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 2,
}  # fmt: skip
"""The least value of each size of a model, by transformers' common names."""
LONGEST = 200
"""The number of characters of a library's message that are shown."""
MOST_LAYERS = 1000
"""The most layers that are accepted: the deepest known language models have some hundred layers."""


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise an OSError where safetensors or tokenizers met one, but report a full disk only in a message."""
    try:
        yield
    except Exception as error:  # tokenizers raises a plain Exception
        if isinstance(error, OSError):
            raise
        if (match := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1]))) from error


def retold(path: str, error: Exception, what: str) -> UserError:
    """The UserError for ``error``, which was raised in reading a ``what`` (`model` or `tokenizer`)."""
    if "trust_remote_code" in str(error):
        return UserError(
            f"the {what} at `{path}` runs Python code of its own",
            "read that code; `model.trust_remote_code=true` runs it",
        )
    if not is_there(path):
        return UserError(
            f"`{path}` is no local directory, and cannot be loaded from the hub: {gist(error)}",
            "check the name and the connection, or give a local directory",
        )
    hint = "a model directory holds config.json, *.safetensors and tokenizer.json"
    if path.endswith(".gguf"):
        hint = "it must be a whole file, of an architecture that transformers reads from GGUF"
    elif "quantiz" in str(error):
        hint = "a quantised model is not trained here: give its weights from before, or a .gguf file"
    return UserError(f"cannot load a {what} from `{path}`: {gist(error)}", hint)


def unbuildable(model_type: str, error: Exception) -> UserError:
    """The UserError for ``error``, which was raised in building a model from `model.architecture`."""
    return UserError(
        f"cannot build a `{model_type}`: {gist(error)}", "check the values in `model.architecture`"
    )


def gist(error: Exception) -> str:
    """The first line of ``error``, and the second where the first only announces it."""
    if isinstance(error, KeyError):
        return f"nothing is called {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".:")
    return told if len(told) <= LONGEST else told[:LONGEST] + " …"


@contextmanager
def explain_damage(path: str, what: str) -> Iterator[None]:
    """Turn exceptions in reading a ``what`` (`model` or `tokenizer`) at ``path`` into a UserError."""
    try:
        yield
    except UNREADABLE as error:
        raise retold(path, error, what) from error


# -- files in a directory ------------------------------------------------------------------------------------


def check_files(directory: Path, *, weights: bool) -> None:
    """Raise ValueError for an entry that is neither file nor directory and for JSON of another shape. If
    ``weights``, also for an index of files outside ``directory``, and for missing or cut weights."""
    for entry in directory.iterdir():
        if entry.exists() and not (entry.is_file() or entry.is_dir()):
            raise ValueError(f"`{entry.name}` is no file (a pipe, a socket or a device)")
    for name in OBJECTS:
        if (directory / name).is_file():
            _read_object(directory / name)
    if not weights:
        return
    index = directory / INDEX
    if (directory / WEIGHTS).is_file():
        _check_whole(directory / WEIGHTS)
    elif index.is_file():
        for shard in _read_shards(index):
            _check_whole(directory / shard)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path.name}` is no JSON: {gist(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path.name}` holds no JSON object")
    return content


def _read_shards(index: Path) -> list[str]:
    """The files that ``index`` names. All must be in its directory."""
    named = _read_object(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"`{index.name}` has no `weight_map` from weights to files")
    shards = sorted(set(named.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"`{index.name}` names `{shard}`, which is no .safetensors file beside it")
        if not (index.parent / shard).is_file():
            raise ValueError(f"`{index.name}` names `{shard}`, which is not there")
    return shards


def _check_whole(path: Path) -> None:
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"`{path.name}` is cut short or damaged: {gist(error)}") from error


# -- sizes in a configuration --------------------------------------------------------------------------------


def check_sizes(config: PreTrainedConfig) -> None:
    """Raise ValueError for sizes that no model has, before a model is built from ``config``."""
    text = config.get_text_config()
    called: Mapping[str, str] = getattr(text, "attribute_map", {})
    for name, least in LEAST.items():
        size = getattr(text, name, None)
        if isinstance(size, int) and size < least:
            raise ValueError(f"`{called.get(name, name)}` is {size}, and must be at least {least}")
    layers = getattr(text, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        name = called.get("num_hidden_layers", "num_hidden_layers")
        raise ValueError(f"`{name}` is {layers}, and no model has more than {MOST_LAYERS} layers")


def check_shapes(model: PreTrainedModel) -> None:
    """Raise ValueError for a weight without elements: a size that `LEAST` does not name is 0."""
    for name, weight in model.named_parameters():
        if weight.numel() == 0:
            raise ValueError(f"its weight `{name}` has the shape {list(weight.shape)}, and holds nothing")


def check_memory(parameters: int) -> None:
    """Raise ValueError where this machine cannot hold so many weights in float32, as they are loaded."""
    needed, there = 4 * parameters, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"its {parameters:,} weights take {needed / 2**30:,.0f} GiB in float32, and this machine has "
            f"{there / 2**30:,.0f} GiB of memory"
        )
