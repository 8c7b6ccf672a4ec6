"""Greedy generation. Of the checkpoint's settings only the tokens that end an answer are used.

A checkpoint may ship settings for generation (a penalty of repetitions, banned tokens, sampling, beams, a
least length). With them the model says other than its most probable tokens, so none of them is used.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer, in rising order: the tokenizer's EOS, and the EOS, one or several, of the
    checkpoint's generation settings or, where these name none, of its configuration."""
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
    """Inside, `model.generate` takes the most probable token at each position, up to one of ``ends``; where
    there are none, to the length asked for.

    transformers fills what a caller leaves open from `model.generation_config`: for as long as this lasts,
    that is a neutral one. The model's own, which is saved with its weights, stays as it is.
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
