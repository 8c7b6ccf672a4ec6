"""A causal language model with its tokenizer: from a hub, a directory, a GGUF file, or an architecture to initialise."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from mari_cli import runs
from mari_cli.config import ChatTemplate, ModelConfig
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item, PromptStyle, tokenize
from mari_cli.errors import UserError
from mari_cli.models.device import Compute
from mari_cli.models.head import check_parity
from mari_cli.models.tokenizer import check_tokenizer, train_tokenizer


@dataclass
class LanguageModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    max_length: int
    """Longest sequence, in tokens."""
    style: PromptStyle
    compute: Compute

    @property
    def device(self) -> torch.device:
        return self.compute.device

    def tokenize(
        self, records: list[Record], *, corpus: str, block_size: int | None, truncate: bool
    ) -> list[Item]:
        return tokenize(
            records,
            self.tokenizer,
            style=self.style,
            max_length=self.max_length,
            block_size=block_size,
            truncate=truncate,
            corpus=corpus,
        )

    def save(self, path: Path) -> None:
        """Weights (safetensors, float32) and tokenizer, as `from_pretrained` reads them; appears whole or not at all."""
        bytes_needed = sum(p.numel() * p.element_size() for p in self.model.parameters())
        runs.check_disk(path.parent, bytes_needed)
        with runs.atomic_directory(path) as directory:
            self.model.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)


def _exists_as_path(path: str) -> bool:
    return Path(path).expanduser().exists()


def _local_or_hub(path: str) -> str:
    """A run directory stands for its checkpoint; what looks like a path must exist; the rest are names of the hub."""
    local = Path(path).expanduser()
    if (local / "checkpoint").is_dir():
        return str(local / "checkpoint")
    if local.exists():
        return str(local)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or local.suffix == ".gguf":
        raise UserError(f"no model at `{path}`: no such file or directory", "check `model.path`")
    return path


def _retold(path: str, error: Exception) -> UserError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if _exists_as_path(path):
        return UserError(
            f"cannot load a model from `{path}`: {first}",
            "it needs config.json, *.safetensors and tokenizer.json",
        )
    return UserError(
        f"cannot load `{path}` from the hub: {first}",
        "check the name and the connection, or give a local directory as `model.path`",
    )


def load_tokenizer(config: ModelConfig, corpus: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer that ``config`` asks for; ``corpus`` is read only where one is trained."""
    if config.tokenizer == "train":
        return train_tokenizer(corpus, config.tokenizer_vocab_size)
    source = config.tokenizer or config.path
    if source is None:
        raise UserError(
            "a model from an architecture has no tokenizer of its own",
            "set `model.tokenizer=train`, or a path",
        )
    place, arguments = _place(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=config.revision, trust_remote_code=config.trust_remote_code, **arguments
        )
    except (OSError, ValueError, KeyError) as error:
        raise _retold(source, error) from error
    check_tokenizer(tokenizer, source)
    return tokenizer


def _place(path: str) -> tuple[str, dict[str, Any]]:
    """Directory or hub name, and the further arguments of `from_pretrained`."""
    place = _local_or_hub(path)
    if place.endswith(".gguf"):
        return str(Path(place).parent), {"gguf_file": Path(place).name}
    return place, {}


def _from_architecture(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    fields = dict(config.architecture or {})
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError("model.architecture has no `model_type`", "for instance `model_type: gpt2`")
    fields |= {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    fields |= {"eos_token_id": tokenizer.eos_token_id}
    try:
        architecture = AutoConfig.for_model(model_type, **fields)
    except ValueError as error:
        raise UserError(
            f"cannot build an architecture: {str(error).splitlines()[0]}", "see `model.architecture`"
        ) from error
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    return model


def _pretrained(config: ModelConfig) -> PreTrainedModel:
    assert config.path
    place, arguments = _place(config.path)
    common: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        if "gguf_file" in arguments:
            return _dequantised(
                AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **arguments, **common)
            )
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **common
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        raise _retold(config.path, error) from error
    model: PreTrainedModel = loaded[0]
    info: dict[str, Any] = loaded[1]
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise UserError(
            f"the checkpoint at `{config.path}` does not fit its model: {len(lost)} weights are missing, `{lost[0]}` among them",
            "config.json and the weights must belong together",
        )
    return model


def _dequantised(model: Any) -> PreTrainedModel:
    """A model that came out of a GGUF file remembers being quantised and refuses to be saved: a plain twin does not."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def load_model(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    compute: Compute,
    *,
    seed: int,
    dropout: bool = False,
    gradient_checkpointing: bool = False,
) -> LanguageModel:
    """Load or initialise, on ``compute``'s device, weights in float32. ``seed`` is that of an initialisation."""
    # loading a shard is no news to a user; what matters is said by us
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    if config.path is None and config.architecture is None:
        raise UserError("no model given", "set `model.path=DIR_OR_HUB_ID`, or choose one: `model=gpt2_tiny`")
    model = _pretrained(config) if config.path else _from_architecture(config, tokenizer, seed)
    where = config.path or config.name
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[index]
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model `{where}` only {vocabulary}",
            "they must belong together: check `model.tokenizer`",
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if config.max_length and context and config.max_length > context:
        raise UserError(
            f"model.max_length={config.max_length} exceeds the context of `{where}`, {context} tokens",
            "leave it out to use the whole context",
        )
    if not dropout:
        switch_off_dropout(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.nn.Module.to(model, compute.device)
    model.eval()
    check_parity(model)
    chat = config.chat_template is ChatTemplate.auto and tokenizer.chat_template is not None
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=config.name,
        max_length=config.max_length or context or 1024,
        style=PromptStyle(config.prompt_template, chat),
        compute=compute,
    )


def switch_off_dropout(model: PreTrainedModel) -> None:
    """In every mode: gradient checkpointing needs the training mode, and a loss must not depend on chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010


def describe_architecture(model: PreTrainedModel) -> str:
    """One line for the log: type, parameters."""
    parameters = sum(p.numel() for p in model.parameters())
    return f"{model.config.model_type}, {parameters / 1e6:.1f} M parameters"
