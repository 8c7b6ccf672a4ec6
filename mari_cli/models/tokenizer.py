"""Checks of a loaded tokenizer, and the training of a tokenizer for a model without weights."""

import json
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mari_cli.errors import UserError
from mari_cli.models.files import UNREADABLE, gist

TEMPLATE_SECONDS = 5.0
"""The longest time of a chat template for one question, about a thousand times the usual time."""
BOS, EOS = "<|bos|>", "<|eos|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE, which can encode every text, of at most ``vocab_size`` tokens."""
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
    """Remove the tokens that transformers appends to the byte-level vocabulary of a GGUF file.

    transformers adds GPT-2's `<|endoftext|>` also where the model has no row for this token.
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


def check_chat_template(tokenizer: Any) -> None:
    """Raise ValueError where the chat template cannot write a question with its answer: it fails, does not
    end, or writes nothing. A template's own refusal is reported by the reader of the corpora."""
    turns = [{"role": "user", "content": "word"}, {"role": "assistant", "content": "word"}]
    try:
        with _time_limit(TEMPLATE_SECONDS):
            written = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return
    except UNREADABLE as error:
        raise ValueError(f"its chat template fails at one question: {gist(error)}") from error
    if not written.strip():
        raise ValueError("its chat template writes nothing")


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside after ``seconds``. Only the main thread of a process has this limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"it runs for more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
