"""The section `model`: where the model comes from, how it is spoken to, and its adapters."""

import re
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from mari_cli.sections import Flag, flags, fraction, label, positive, require

TODAY = date(2024, 7, 26)
"""What a chat template is told of the day: the date that Llama's writes where it is told none."""
LEAST_VOCABULARY = 258
"""Tokens of a byte-level vocabulary without any merge."""


class ChatTemplate(StrEnum):
    auto = "auto"  # the tokenizer's own template where it has one
    off = "off"


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters on top of frozen weights (E. Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
    Language Models", https://arxiv.org/abs/2106.09685). They are what the run itself trains; a target or gold
    model that it fine-tunes first is trained whole."""

    rank: int | None = None
    """null: no adapters, every weight is trained."""
    alpha: float | None = None
    """The adapters' product is scaled by alpha / rank; null: alpha is twice the rank."""
    dropout: float = 0.0
    """On the adapters' input; needs `train.dropout=true`."""
    targets: list[str] | None = None
    """Names of linear layers, as `q_proj`; null: all of them except the head."""
    merge: Flag = True
    """What `checkpoint/` holds: true: a plain model, with the adapters merged in; false: the adapters, with a
    note of the model that they belong to, which must then stay where it is."""

    def __post_init__(self) -> None:
        flags("model.lora", self, "merge")
        positive("model.lora", self, "rank", "alpha")
        fraction("model.lora", self, "dropout", open_above=True)
        require(self.targets is None or bool(self.targets), "model.lora.targets must not be empty")
        if self.rank is None:
            for name, off in (("alpha", None), ("dropout", 0.0), ("targets", None), ("merge", True)):
                require(getattr(self, name) == off, f"model.lora.{name} needs model.lora.rank")


@dataclass(kw_only=True)
class ModelConfig:
    """Where the model comes from: ``path`` of an existing one, or ``architecture`` to build from scratch."""

    name: str = MISSING
    """Label in tables and run names."""
    path: str | None = None
    """A hub id, a directory that `save_pretrained` wrote, a run directory of mari, or a .gguf file."""
    revision: str | None = None
    trust_remote_code: Flag = False
    """true or false, and no number or word that might stand for one: true runs code of others."""
    architecture: dict[str, Any] | None = None
    """Fields of a transformers configuration, `model_type` among them; `vocab_size` follows the tokenizer."""
    tokenizer: str | None = None
    """Path or hub id; null: the model's own; `train`: a byte-level BPE trained on the run's own corpora."""
    tokenizer_vocab_size: int = 2048
    """Size of a tokenizer that is trained on the spot, in tokens."""
    max_length: int | None = None
    """Longest sequence in tokens; null: the model's context."""
    chat_template: ChatTemplate = ChatTemplate.auto
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    """What the chat template is told besides, as `+model.chat_template_args.enable_thinking=false`."""
    chat_template_date: str = TODAY.isoformat()
    """The date that a chat template writes where it asks for that of the day: one that changed would change
    every prompt."""
    system_prompt: str | None = None
    """Said before every prompt; a conversation with a system turn of its own keeps that one. Where no chat
    template applies it stands before the prompt, with an empty line between."""
    prompt_template: str = "Question: {prompt}\nAnswer: "
    """How a prompt is written where no chat template applies; the completion follows it directly. Of a
    conversation each question is written so, and each answer is followed by an empty line."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        label("model", self)
        positive("model", self, "max_length")
        require(
            self.tokenizer_vocab_size >= LEAST_VOCABULARY,
            f"model.tokenizer_vocab_size must be >= {LEAST_VOCABULARY} (every byte, BOS and EOS), "
            f"got {self.tokenizer_vocab_size}",
        )
        require(
            self.tokenizer_vocab_size <= 2**20,
            f"model.tokenizer_vocab_size must be at most {2**20}, got {self.tokenizer_vocab_size}",
        )
        flags("model", self, "trust_remote_code")
        require(
            self.path is None or self.architecture is None,
            "model.path and model.architecture exclude each other",
        )
        require(
            "{prompt}" in self.prompt_template,
            "model.prompt_template must contain {prompt}",
            """e.g. 'model.prompt_template="Q: {prompt} A: "'""",
        )
        for name in ("prompt_template", "system_prompt"):
            value = getattr(self, name)
            words = "Q: {prompt}" if name == "prompt_template" else "Be brief."
            require(
                value is None or not re.search(r"\\[nrt]", value),
                f"model.{name} has a backslash and a letter where it may mean a line break or a tab",
                f"""in a shell, write $'model.{name}="{words}\\n"'; in YAML, "{words}\\n" in double quotes""",
            )
        require(
            self.system_prompt is None or bool(self.system_prompt.strip()),
            "model.system_prompt must not be empty; null: there is none",
        )
        try:
            date.fromisoformat(self.chat_template_date)
        except ValueError:
            message = f"model.chat_template_date must be a date like {TODAY}, got {self.chat_template_date}"
            require(False, message)
