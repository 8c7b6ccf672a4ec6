"""Greedy generation. Of the checkpoint's generation settings only the tokens that end an answer are used.

The other settings (a penalty of repetitions, banned tokens, sampling, beams, a least length) would replace
the most probable token by another one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer, in rising order: the tokenizer's EOS, and each EOS of the checkpoint's
    generation settings or, where these name none, of its configuration."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if named is None:
        named = getattr(model.config.get_text_config(), "eos_token_id", None)
    listed = named if isinstance(named, list | tuple) else [named]
    found = {token for token in [*listed, tokenizer.eos_token_id] if type(token) is int}
    return sorted(found)


@contextmanager
def greedily(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> Iterator[None]:
    """Inside, `model.generate` takes the most probable token at each position, up to one of ``ends``. Without
    ``ends`` the answer has the length that the caller gives.

    transformers reads settings that a caller does not give from `model.generation_config`, so the model has a
    neutral `generation_config` inside. Its own one, which is saved with the weights, comes back afterwards.
    """
    own: Any = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=list(ends) or None,
        pad_token_id=tokenizer.eos_token_id,
    )
    try:
        yield
    finally:
        model.generation_config = own
