"""A causal language model with its tokenizer: from a hub, a directory, a GGUF file, or an architecture."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.modules.dropout import _DropoutNd
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from mari_cli.config import ChatTemplate, ModelConfig, Packing
from mari_cli.data.chat import check_chat
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item, PromptStyle, end_of_answer, tokenize
from mari_cli.errors import UserError, counted
from mari_cli.lm_head import check_parity
from mari_cli.models.checks import check_buildable, check_finite, config_of, misfit_of
from mari_cli.models.device import Compute
from mari_cli.models.files import UNREADABLE, check_files, explain_damage, system_errors, unbuildable
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.locate import find_model, is_adapter, refuse_other_formats, require_named
from mari_cli.models.lora import (
    Base,
    apply_adapter,
    has_adapters,
    merged_state,
    require_base,
    settle_ties,
    write_adapter,
)
from mari_cli.models.packing import Layout, choose_layout
from mari_cli.models.speaking import stops
from mari_cli.models.tokenizer import check_chat_template, check_tokenizer, only_own_tokens, train_tokenizer
from mari_cli.storage import atomic, room_on_disk


@dataclass
class LanguageModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    max_length: int
    """Longest sequence, in tokens."""
    style: PromptStyle
    compute: Compute
    layout: Layout
    """Whether the sequences of a batch are packed."""

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @property
    def in_shards(self) -> bool:
        """Whether each process has a part of the weights. Then all processes must call the model equally
        often."""
        return any(isinstance(parameter, DTensor) for parameter in self.model.parameters())

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer, in rising order: the tokenizer's EOS, the end of turn of the chat
        template in use, and each EOS of the checkpoint's generation settings."""
        end = end_of_answer(self.tokenizer, self.style)
        return sorted({*stops(self.model, self.tokenizer), *([] if end is None else [end])})

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
        """Write weights (safetensors, float32) and tokenizer as `from_pretrained` reads them, all or nothing.
        Adapters are merged into the saved weights; the model itself does not change."""
        bytes_needed = sum(p.numel() * p.element_size() for p in self.model.parameters())
        room_on_disk.check_disk(path.parent, bytes_needed)
        state = merged_state(self.model) if has_adapters(self.model) else None
        with atomic.atomic_directory(path) as directory, system_errors():
            self.model.save_pretrained(directory, state_dict=state)
            self.tokenizer.save_pretrained(directory)

    def save_adapter(self, path: Path, base: Base) -> None:
        """Write only the adapters, with the tokenizer and a note of ``base``, all or nothing."""
        bytes_needed = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        room_on_disk.check_disk(path.parent, bytes_needed)
        with atomic.atomic_directory(path) as directory, system_errors():
            write_adapter(self.model, directory, base)
            self.tokenizer.save_pretrained(directory)


def load_tokenizer(config: ModelConfig, corpus: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer that ``config`` names; ``corpus`` is read only where a tokenizer is trained."""
    silence_transformers()
    if config.tokenizer == "train":
        if config.path is not None:
            raise UserError(
                f"`{config.path}` was trained with another vocabulary than `model.tokenizer=train` makes",
                "leave out `model.tokenizer`; only a model from an architecture begins without one",
            )
        return train_tokenizer(corpus, config.tokenizer_vocab_size)
    source = config.tokenizer or config.path
    require_named(config)
    if source is None:
        raise UserError(
            "a model from an architecture has no tokenizer of its own",
            "set `model.tokenizer=train`, or a path",
        )
    place, arguments = place_of(source)
    if config.tokenizer is None and not arguments:
        refuse_other_formats(source, Path(place))
    with explain_damage(source, "tokenizer"):
        if Path(place).is_dir() and not arguments:
            check_files(Path(place), weights=False)
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=config.revision, trust_remote_code=config.trust_remote_code, **arguments
        )
        check_tokenizer(tokenizer, source)
        if config.chat_template is ChatTemplate.auto and tokenizer.chat_template is not None:
            check_chat_template(tokenizer)
    return only_own_tokens(tokenizer) if "gguf_file" in arguments else tokenizer


def silence_transformers() -> None:
    """Silence transformers' progress bars and warnings, because mari prints its own messages."""
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()


def base_of(config: ModelConfig, *, weights: str, sha256: str) -> Base:
    """The note of ``config``'s model in an adapter; a local model is noted by its absolute path."""
    if config.path is None:
        raise UserError(
            "an adapter needs a base that stays on disk, but this model is made from its architecture",
            "leave out `model.lora.merge=false`, or save the model first and give it as `model.path`",
        )
    place = find_model(config.path)
    if Path(place).exists():
        return Base(str(Path(place).resolve()), None, weights, sha256)
    return Base(place, config.revision, weights, sha256)


def _load_adapted(config: ModelConfig, directory: Path) -> PreTrainedModel:
    """The base of the adapter in ``directory``, with the adapter merged in."""
    base = require_base(directory)
    model = _load_pretrained(replace(config, path=base.path, revision=base.revision))
    if base.sha256 is not None and base.sha256 != weights_hash(model):
        raise UserError(
            f"the adapter at `{config.path}` was trained on other weights than those in `{base.path}` now",
            "put back the weights that it was trained on",
        )
    apply_adapter(model, directory, base)
    return model


def place_of(path: str) -> tuple[str, dict[str, Any]]:
    """The directory or hub name, and the further arguments of `from_pretrained`."""
    place = find_model(path)
    if place.endswith(".gguf"):
        return str(Path(place).parent), {"gguf_file": Path(place).name}
    return place, {}


def _build(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    architecture = config_of(
        config.architecture or {},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    try:
        check_buildable(architecture)
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    except UNREADABLE as error:
        raise unbuildable(architecture.model_type, error) from error
    return model


def _load_pretrained(config: ModelConfig) -> PreTrainedModel:
    assert config.path
    place, arguments = place_of(config.path)
    if is_adapter(Path(place)):
        return _load_adapted(config, Path(place))
    if not arguments:
        refuse_other_formats(config.path, Path(place))
        arguments = {"use_safetensors": True}
    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with explain_damage(config.path, "model"):
        if Path(place).is_dir() and "gguf_file" not in arguments:
            check_files(Path(place), weights=True)
            shapes = AutoConfig.from_pretrained(place, **options)
            check_buildable(shapes, trust_remote_code=config.trust_remote_code)
            context_of(config, shapes)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `misfit_of` reports these sizes below
            **options,
            **arguments,
        )
    model: PreTrainedModel = loaded[0]
    if has_adapters(model):  # transformers has loaded the base of an adapter by itself
        raise UserError(
            f"`{config.path}` is an adapter in a hub",
            "download it: `model.path=` takes the directory of an adapter, and loads its base",
        )
    if misfit := misfit_of(model, loaded[1]):
        raise UserError(
            f"the checkpoint at `{config.path}` does not fit its model: {misfit}",
            "config and weights must belong together: take both from one source",
        )
    settle_ties(model)
    return _copy_dequantised(model) if "gguf_file" in arguments else model


def _copy_dequantised(model: Any) -> PreTrainedModel:
    """A copy of ``model``, from a GGUF file, whose configuration no longer says that it was quantised.
    transformers refuses to save a quantised model."""
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
    packing: Packing = Packing.auto,
) -> LanguageModel:
    """Load or initialise the model on ``compute``'s device, with float32 weights; ``seed`` is for the
    initialisation. Raises UserError for a model that is unreadable, does not fit or is not supported."""
    silence_transformers()
    require_named(config)
    model = _load_pretrained(config) if config.path else _build(config, tokenizer, seed)
    check_vocabulary(config, model, tokenizer)
    context_of(config, model.config)  # a wrong one is told before the model goes to its device
    if not dropout:
        switch_off_dropout(model)
    if gradient_checkpointing:
        checkpoint_activations(model)
    torch.nn.Module.to(model, compute.device)
    model.eval()
    check_finite(model, config.path or config.name)
    check_parity(model)
    return with_tokenizer(config, model, tokenizer, compute, choose_layout(model, compute, packing))


def check_vocabulary(config: ModelConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where ``tokenizer`` has tokens that ``model`` does not know."""
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[index]
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"the tokenizer has {counted(len(tokenizer), 'token')}, the model "
            f"`{config.path or config.name}` only {vocabulary}",
            "they must belong together: check `model.tokenizer`",
        )


def with_tokenizer(
    config: ModelConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    compute: Compute,
    layout: Layout,
) -> LanguageModel:
    """``model`` and ``tokenizer`` as ``config`` uses them. Raises UserError as `context_of`."""
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=config.name,
        max_length=context_of(config, model.config),
        style=prompt_style(config, tokenizer),
        compute=compute,
        layout=layout,
    )


def context_of(config: ModelConfig, shapes: PreTrainedConfig) -> int:
    """The most tokens that a model of ``shapes`` reads at once: `model.max_length`, else its context. Raises
    UserError for a `model.max_length` above that context."""
    context = getattr(shapes.get_text_config(), "max_position_embeddings", None)
    if config.max_length and context and config.max_length > context:
        raise UserError(
            f"model.max_length={config.max_length} exceeds the context of `{config.path or config.name}`, "
            f"{counted(context, 'token')}",
            "leave it out to use the whole context",
        )
    return config.max_length or context or 1024


def prompt_style(config: ModelConfig, tokenizer: PreTrainedTokenizerBase | None) -> PromptStyle:
    """The prompt style of ``config``. Raises UserError where the chat template contradicts ``config``."""
    templated = tokenizer is not None and tokenizer.chat_template is not None
    chat = templated and config.chat_template is ChatTemplate.auto
    if config.chat_template_args and not chat and tokenizer is not None:
        raise UserError(
            "`model.chat_template_args` has no effect: no chat template is used",
            "leave it out, or give a tokenizer with a chat template and `model.chat_template=auto`",
        )
    style = PromptStyle(
        config.prompt_template,
        chat,
        config.chat_template_args,
        date.fromisoformat(config.chat_template_date),
        config.system_prompt,
    )
    if chat:
        assert tokenizer is not None
        check_chat(style.chat_of(tokenizer), tokenizer)
    return style


def checkpoint_activations(model: PreTrainedModel, wanted: bool = True) -> None:
    """Compute activations again in the backward pass instead of keeping them; not ``wanted``: keep them."""
    name = "enable" if wanted else "disable"
    call = getattr(model, f"activation_checkpointing_{name}", None)  # the name since transformers 5.23
    call = call or getattr(model, f"gradient_checkpointing_{name}")
    call(*([{"use_reentrant": False}] if wanted else []))


def switch_off_dropout(model: PreTrainedModel) -> None:
    """Set every dropout rate to 0, because gradient checkpointing needs the training mode and a loss must not
    depend on chance. Only the modules change; the configuration, which is saved, keeps its rates."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            is_rate = "drop" in name or (name == "p" and isinstance(module, _DropoutNd))
            if is_rate and isinstance(value, float):
                setattr(module, name, 0.0)
