"""From records to token sequences that know which of their tokens are supervised."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mari_cli.data.records import Record
from mari_cli.errors import UserError, counted


@dataclass(frozen=True)
class Item:
    """One sequence: each token from ``supervised_from`` (>= 1) on is a target, predicted from all before."""

    input_ids: tuple[int, ...]
    supervised_from: int
    record: int
    """Index of the record it was cut from."""

    @property
    def num_targets(self) -> int:
        return len(self.input_ids) - self.supervised_from

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.supervised_from]


@dataclass(frozen=True)
class PromptStyle:
    """How a prompt and its completion become one text."""

    template: str
    chat: bool
    """Use the tokenizer's chat template instead of ``template``."""

    def texts(self, tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> tuple[str, str]:
        """The text up to the completion, and the whole."""
        if not self.chat:
            before = self.template.replace("{prompt}", prompt)
            return before, before + completion
        user = [{"role": "user", "content": prompt}]
        answered = [*user, {"role": "assistant", "content": completion}]
        try:
            before = str(tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True))
            whole = str(tokenizer.apply_chat_template(answered, tokenize=False)).rstrip()
        except TemplateError as error:
            raise UserError(
                f"the chat template refuses a question with its answer: {error}",
                "turn it off with `model.chat_template=off`",
            ) from error
        if not whole.startswith(before):
            raise UserError(
                "the chat template writes a prompt differently once it is answered",
                "turn it off with `model.chat_template=off`",
            )
        return before, whole


def encode_pair(
    record: Record, tokenizer: PreTrainedTokenizerBase, style: PromptStyle
) -> tuple[list[int], int]:
    """Token ids of prompt, completion and one closing EOS; and the index of the first completion token.

    The whole text is tokenised at once, as the model will meet it, and the boundary is read off the character
    offsets: a token that straddles it belongs to the completion. (Two separate tokenisations would differ
    wherever a tokenizer merges across the boundary.)
    """
    assert record.prompt is not None
    before, whole = style.texts(tokenizer, record.prompt, record.text)
    encoding: Any = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=not style.chat)
    ids: list[int] = list(encoding["input_ids"])
    # special tokens have the empty span (0, 0), which never passes the boundary
    start = next((i for i, (_, end) in enumerate(encoding["offset_mapping"]) if end > len(before)), len(ids))
    start = max(start, 1)  # nothing predicts the very first token
    eos = tokenizer.eos_token_id
    if ids[-1] != eos or start == len(ids):  # an EOS that ends the prompt ends no answer
        ids.append(eos)
    return ids, start


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase, block_size: int) -> list[list[int]]:
    """Consecutive blocks of at most ``block_size`` >= 2 tokens, each opened by BOS where there is one.

    With a BOS every token of the text is a target; without one the first token of a block has nothing before
    it.
    """
    ids: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    opening = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    width = block_size - len(opening)
    blocks = [opening + ids[i : i + width] for i in range(0, len(ids), width)]
    return [block for block in blocks if len(block) > 1]


def tokenize(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    style: PromptStyle,
    max_length: int,
    block_size: int | None,
    truncate: bool,
    corpus: str,
) -> list[Item]:
    """Items of all ``records``, in order. ``corpus`` names the corpus in errors.

    Raises UserError where a pair is longer than ``max_length`` and ``truncate`` was not asked for, or where a
    prompt alone fills it.
    """
    block_size = min(block_size or max_length, max_length)
    if block_size < 2:
        raise UserError(
            f"a block of {block_size} token has no token to predict and one to predict it from",
            f"set `{corpus}.block_size` and `model.max_length` to at least 2",
        )
    items: list[Item] = []
    too_long = no_room = 0
    for number, record in enumerate(records):
        if record.prompt is None:
            items += [Item(tuple(ids), 1, number) for ids in encode_text(record.text, tokenizer, block_size)]
            continue
        ids, start = encode_pair(record, tokenizer, style)
        too_long += len(ids) > max_length
        no_room += start >= max_length
        items.append(Item(tuple(ids[:max_length]), start, number))
    if no_room:
        raise UserError(
            f"{no_room} of {len(records)} prompts of the {corpus} corpus leave no room for an answer "
            f"in {counted(max_length, 'token')}",
            "shorten the prompts, or use a model with a longer context",
        )
    if too_long and not truncate:
        raise UserError(
            f"{too_long} of {len(records)} records of the {corpus} corpus "
            f"are longer than {counted(max_length, 'token')}",
            f"`{corpus}.truncate=true` cuts them, `model.max_length` sets the limit",
        )
    if not items:
        raise UserError(f"the {corpus} corpus holds no token to learn", "give it more text")
    return items


def count_tokens(items: Iterable[Item]) -> int:
    return sum(len(item.input_ids) for item in items)
