"""Tokenizers: loaded with their model, or trained on the spot for a model that starts from nothing."""

from collections.abc import Iterable

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


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
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
