"""The section `model`: the source of the model, its prompts, and its adapters."""

import re
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from mari_cli.sections import Checked, Flag, flag, fraction, label, positive, require

TODAY = date(2024, 7, 26)
"""The date for chat templates: the default date in Llama's template."""
LEAST_VOCABULARY = 258
"""The number of tokens of a byte-level vocabulary without merges: 256 bytes, BOS and EOS."""


class ChatTemplate(StrEnum):
    auto = "auto"  # the tokenizer's own template, if it has one
    off = "off"


@dataclass(kw_only=True)
class LoraConfig(Checked):
    """Low-rank adapters on frozen weights (E. Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language
    Models", https://arxiv.org/abs/2106.09685). A target or gold model that the run fine-tunes first is
    trained without adapters."""

    section = "model.lora"
    rank: int | None = positive(None)
    """Rank of the adapters; null: no adapters, and every weight is trained."""
    alpha: float | None = positive(None)
    """The adapters' product is scaled by alpha / rank; null: alpha is twice the rank."""
    dropout: float = fraction(0.0, open_above=True)
    """Dropout on the adapters' input; needs `train.dropout=true`."""
    targets: list[str] | None = None
    """Names of linear layers, as `q_proj`; null: all linear layers except the head."""
    merge: Flag = flag(True)
    """true: `checkpoint/` holds a plain model with merged adapters. false: `checkpoint/` holds the adapters
    and the name of their base, which must stay in its place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.targets is None or bool(self.targets), "model.lora.targets must not be empty")
        if self.rank is None:
            for name, off in (("alpha", None), ("dropout", 0.0), ("targets", None), ("merge", True)):
                require(getattr(self, name) == off, f"model.lora.{name} needs model.lora.rank")


@dataclass(kw_only=True)
class ModelConfig(Checked):
    """The model: an existing one at ``path``, or a new one with random weights from ``architecture``."""

    section = "model"
    name: str = MISSING
    """Label in tables and run names."""
    path: str | None = None
    """A hub id, a directory that `save_pretrained` wrote, a run directory of mari, or a .gguf file."""
    revision: str | None = None
    trust_remote_code: Flag = flag(False)
    """Whether to run Python code that belongs to the model: true or false, never another word or a number."""
    architecture: dict[str, Any] | None = None
    """Fields of a transformers configuration with `model_type`; `vocab_size` comes from the tokenizer."""
    tokenizer: str | None = None
    """Path or hub id; null: the model's own; `train`: a byte-level BPE trained on the run's corpora."""
    tokenizer_vocab_size: int = 2048
    """Number of tokens of a tokenizer that the run trains."""
    max_length: int | None = positive(None)
    """Longest sequence in tokens; null: the model's context."""
    chat_template: ChatTemplate = ChatTemplate.auto
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template, as `+model.chat_template_args.enable_thinking=false`."""
    chat_template_date: str = TODAY.isoformat()
    """The date that a chat template writes as today's date. It is fixed, because a new date would change
    every prompt."""
    system_prompt: str | None = None
    """System turn before every prompt, except where a conversation has a system turn. Without a chat template
    the text stands before the prompt, followed by an empty line."""
    prompt_template: str = "Question: {prompt}\nAnswer: "
    """Template of a prompt without a chat template; the completion follows directly. In a conversation the
    template is used for each question, and an empty line follows each answer."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def at(self, path: str) -> "ModelConfig":
        """The model at ``path``, with the architecture and the tokenizer that lie there."""
        return replace(self, path=path, architecture=None, revision=None, tokenizer=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        label("model", self)
        require(
            self.tokenizer_vocab_size >= LEAST_VOCABULARY,
            f"model.tokenizer_vocab_size must be >= {LEAST_VOCABULARY} (every byte, BOS and EOS), "
            f"got {self.tokenizer_vocab_size}",
        )
        require(
            self.tokenizer_vocab_size <= 2**20,
            f"model.tokenizer_vocab_size must be at most {2**20}, got {self.tokenizer_vocab_size}",
        )
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
