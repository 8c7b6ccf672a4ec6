"""Tokenising: records become sequences of tokens, some of which are supervised."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from mari_cli.config import TODAY
from mari_cli.data.chat import Chat, Written, chat_of, written
from mari_cli.data.records import Record, Turn
from mari_cli.errors import UserError, counted


@dataclass(frozen=True)
class Item:
    """One sequence. Each token from ``supervised_from`` (>= 1) on is a target, predicted from all before."""

    input_ids: tuple[int, ...]
    supervised_from: int
    record: int
    """The index of the record of this sequence."""
    wanted: tuple[int, ...] | None = None
    """Labels of the targets in place of the sequence's own tokens; None: the own tokens."""

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each target."""
        return self.input_ids[self.supervised_from :] if self.wanted is None else self.wanted

    @property
    def num_targets(self) -> int:
        return len(self.input_ids) - self.supervised_from


@dataclass(frozen=True)
class PromptStyle:
    """The settings by which a prompt and its completion become one text."""

    template: str
    chat: bool
    """Use the tokenizer's chat template instead of ``template``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template."""
    today: date = TODAY
    """The date that the chat template writes."""
    system: str | None = None
    """The system turn before every prompt that has no system turn."""

    @property
    def key(self) -> dict[str, Any]:
        """The style as JSON, for cache keys of values that depend on the style."""
        return {
            "template": self.template,
            "chat": self.chat,
            "arguments": dict(self.arguments),
            "date": self.today.isoformat(),
            "system": self.system,
        }

    def turns(self, record: Record) -> tuple[Turn, ...]:
        """All turns before the answer."""
        turns = record.conversation
        if self.system is None or any(turn.role == "system" for turn in turns):
            return turns
        return (Turn("system", self.system), *turns)

    def chat_of(self, tokenizer: PreTrainedTokenizerBase) -> Chat:
        """The chat template of ``tokenizer`` with the arguments and the date of this style."""
        return chat_of(tokenizer, arguments=self.arguments, today=self.today)

    def written(self, tokenizer: PreTrainedTokenizerBase, record: Record) -> Written:
        """The prompt of ``record`` with its completion, as text."""
        if self.chat:
            return written(self.chat_of(tokenizer), tokenizer, self.turns(record), record.text)
        return Written(plain(self.turns(record), self.template), record.text, "")


def plain(turns: Sequence[Turn], template: str) -> str:
    """A conversation up to an answer, without a chat template: each question in ``template``, each answer and
    system turn unchanged, with an empty line after it."""
    return "".join(
        template.replace("{prompt}", turn.content) if turn.role == "user" else f"{turn.content}\n\n"
        for turn in turns
    )


def encode_pair(
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    style: PromptStyle,
    *,
    enders: Collection[int] | None = None,
) -> tuple[list[int], int]:
    """Token ids of prompt and completion, including the token that ends the completion, and the index of the
    first completion token. ``enders``: the result of `turn_enders`, if it is known.

    A completion ends with the first special token that the chat template writes after it (the end of turn),
    else with EOS. Text of the template after this token, for example a line break, is left out.

    The whole text is tokenised at once, because a tokenizer may merge characters across the boundary between
    prompt and completion. A token that crosses this boundary belongs to the completion.
    """
    assert record.prompt is not None
    prompt, answer, end = style.written(tokenizer, record)
    enders = turn_enders(tokenizer) if enders is None else enders
    if not any(token in enders for token in tokenizer(end, add_special_tokens=False)["input_ids"]):
        end = end.rstrip()  # EOS is appended below
    encoding: Any = tokenizer(
        prompt + answer + end, return_offsets_mapping=True, add_special_tokens=not style.chat
    )
    ids: list[int] = list(encoding["input_ids"])
    spans: list[tuple[int, int]] = encoding["offset_mapping"]
    # special tokens without text have the empty span (0, 0), which never crosses the boundary
    start = next((i for i, (_, after) in enumerate(spans) if after > len(prompt)), len(ids))
    start = max(start, 1)  # nothing predicts the very first token
    eos = tokenizer.eos_token_id
    for i in range(start, len(ids)):
        if spans[i][0] >= len(prompt) + len(answer) and ids[i] in enders:
            ids = ids[: i + 1]
            break
    else:
        if ids[-1] != eos or start == len(ids):  # an EOS that ends the prompt ends no answer
            ids.append(eos)
    ends = {ids[-1], eos}
    first = next((i for i in range(start, len(ids)) if ids[i] in ends), len(ids))
    after = [token for token in ids[first:] if token not in ends]
    if not str(tokenizer.decode(after)).strip():  # no text follows, so the first end is enough
        ids = ids[: first + 1]
    return ids, start


def turn_enders(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens, which the surrounding text never changes, so that they can end a turn."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    return added | {tokenizer.eos_token_id}


def end_of_answer(tokenizer: PreTrainedTokenizerBase, style: PromptStyle) -> int:
    """The token that ends every answer, at which generation must stop."""
    ids, _ = encode_pair(Record(prompt="Where?", text="There."), tokenizer, style)
    return ids[-1]


def encode_question(
    prompt: str, tokenizer: PreTrainedTokenizerBase, style: PromptStyle, *, answer: str = "There."
) -> list[int]:
    """Token ids of a prompt for generation, as `encode_pair` has them before ``answer``. Only the
    beginning of the answer matters, and only where a tokenizer merges it with the end of the prompt."""
    ids, start = encode_pair(Record(prompt=prompt, text=answer), tokenizer, style)
    return ids[:start]


def encode_beginning(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of running text that a model continues, as in `encode_text`."""
    ids: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase, block_size: int) -> list[list[int]]:
    """Consecutive blocks of at most ``block_size`` >= 2 tokens, each with BOS first if the tokenizer has one.

    With BOS every token of the text is a target; without BOS the first token of a block is no target.
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

    Raises UserError where a pair is longer than ``max_length`` without ``truncate``, where a prompt alone has
    ``max_length`` tokens, and where an answer continues after a token that ends an answer.
    """
    if block_size is not None and block_size > max_length:
        raise UserError(
            f"`{corpus}.block_size={block_size}` is longer than the {counted(max_length, 'token')} "
            "of a sequence",
            f"set it to at most {max_length}, or leave it out",
        )
    block_size = block_size or max_length
    if block_size < 2:
        raise UserError(
            f"a block of {block_size} token has no token to predict and one to predict it from",
            f"set `{corpus}.block_size` and `model.max_length` to at least 2",
        )
    items: list[Item] = []
    enders = turn_enders(tokenizer)
    too_long = no_room = 0
    ended: list[tuple[int, int]] = []
    for number, record in enumerate(records):
        if record.prompt is None:
            items += [Item(tuple(ids), 1, number) for ids in encode_text(record.text, tokenizer, block_size)]
            continue
        with _name_record(number, corpus):
            ids, start = encode_pair(record, tokenizer, style, enders=enders)
        too_long += len(ids) > max_length
        no_room += start >= max_length
        ended += [(number, token) for token in {ids[-1], tokenizer.eos_token_id} & set(ids[start:-1])]
        items.append(Item(tuple(ids[:max_length]), start, number))
    if ended:
        number, token = ended[0]
        raise UserError(
            f"the answer of record {number + 1} of the {corpus} corpus goes on after "
            f"`{tokenizer.convert_ids_to_tokens(token)}`, which ends an answer",
            "cut the answer there, or take the token out of it",
        )
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


@contextmanager
def _name_record(number: int, corpus: str) -> Iterator[None]:
    """Add the number of the record and the corpus to a UserError raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"record {number + 1} of the {corpus} corpus: {error}", error.hint) from error


def check_prompts(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, style: PromptStyle, *, corpus: str
) -> None:
    """Raise UserError where the chat template cannot write a record. The check, which needs no model, writes
    only the first record of each sequence of roles."""
    first: dict[tuple[str, ...], int] = {}
    for number, record in enumerate(records):
        first.setdefault(tuple(turn.role for turn in style.turns(record)), number)
    for number in first.values():
        if records[number].prompt is not None:
            with _name_record(number, corpus):
                style.written(tokenizer, records[number])


def count_tokens(items: Iterable[Item]) -> int:
    return sum(len(item.input_ids) for item in items)
