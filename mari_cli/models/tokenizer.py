"""Tokenizers: loaded with their model, or trained on the spot for a model that starts from nothing."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mari_cli.errors import UserError

BOS, EOS = "<|bos|>", "<|eos|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE of at most ``vocab_size`` tokens: no text is out of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def only_own_tokens(tokenizer: Any) -> PreTrainedTokenizerBase:
    """Without the tokens that transformers appends to the byte-level vocabulary of a GGUF file.

    GPT-2's `<|endoftext|>` is added to every one of them, also where the model has no row for it.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    size = len(content["model"]["vocab"])
    own = [token for token in content["added_tokens"] if token["id"] < size]
    if len(own) == len(content["added_tokens"]):
        return tokenizer  # type: ignore[no-any-return]
    backend = Tokenizer.from_str(json.dumps(content | {"added_tokens": own}))
    special = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if backend.token_to_id(str(token)) is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=tokenizer.chat_template, **special)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    if not tokenizer("word", add_special_tokens=False)["input_ids"]:
        raise UserError(
            f"the tokenizer of `{where}` has no vocabulary",
            "it needs a tokenizer.json, or name another one with `model.tokenizer=…`",
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of `{where}` has no EOS token",
            "an answer has to end: give one with `model.tokenizer=…` that has an EOS token",
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of `{where}` reports no character offsets",
            "use one with a tokenizer.json (`model.tokenizer=…`)",
        )
