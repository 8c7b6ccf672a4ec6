"""Where an item's tokens stand in its text, and which stretches of that text are the record's own words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item, PromptStyle
from mari_cli.errors import UserError

WORD = re.compile(r"\w[\w'’\-]*")
POSSESSIVE = re.compile(r"['’]s?$")

Span = tuple[int, int]
"""From a character to before another."""


@dataclass(frozen=True)
class Word:
    start: int
    end: int
    name: str
    """In lower case, without a possessive 's."""
    capital: bool


@dataclass(frozen=True)
class Located:
    """One item in its text."""

    text: str
    tokens: tuple[Span, ...]
    """Of each token of the item; empty where it stands for no character."""
    own: tuple[Span, ...]
    """What the record says: prompt and completion without the template around them, or a block's text."""

    def words(self) -> Iterator[list[Word]]:
        """Of each own stretch its words, in order. The first word of a block counts from where the block
        begins."""
        for start, end in self.own:
            found = []
            for match in WORD.finditer(self.text, start, end):
                written = POSSESSIVE.sub("", match.group())
                if written:
                    here = match.start(), match.start() + len(written)
                    found.append(Word(*here, written.casefold(), written[0].isupper()))
            yield found

    def inside(self, spans: Sequence[Span]) -> list[int]:
        """The tokens that share a character with one of ``spans``, in order."""
        return [
            token
            for token, (start, end) in enumerate(self.tokens)
            if any(start < last and end > first for first, last in spans)
        ]


def locate(
    records: Sequence[Record],
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase,
    style: PromptStyle,
) -> list[Located]:
    """Each of ``items``, which `tokenize` made of ``records`` (all of a record's blocks, in order), in its
    text.

    Raises UserError where a chat template does not repeat the prompt as it is.
    """
    found = []
    record, spans, done = -1, list[Span](), 0
    opening = int(tokenizer.bos_token_id is not None)
    for item in items:
        whole = records[item.record]
        if whole.prompt is not None:
            found.append(_pair(whole, item, tokenizer, style))
            continue
        if item.record != record:
            encoding: Any = tokenizer(whole.text, return_offsets_mapping=True, add_special_tokens=False)
            record, spans, done = item.record, list(encoding["offset_mapping"]), 0
        tokens = len(item.input_ids) - opening
        found.append(_block(whole.text, spans[done : done + tokens], opening))
        done += tokens
    return found


def _pair(record: Record, item: Item, tokenizer: PreTrainedTokenizerBase, style: PromptStyle) -> Located:
    before, answer, end = style.written(tokenizer, record)
    whole = before + answer + end
    encoding: Any = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=not style.chat)
    length = len(item.input_ids)
    spans = [(start, last) for start, last in encoding["offset_mapping"]][:length]
    spans += [(0, 0)] * (length - len(spans))  # a closing EOS
    own = [*_prompt(record, before, style), (len(before), len(before) + len(answer))]
    return Located(whole, tuple(spans), tuple(own))


def _prompt(record: Record, before: str, style: PromptStyle) -> list[Span]:
    """Where ``before``, the text up to the completion, repeats what the record says."""
    spans, done = [], 0
    if style.chat:
        for turn in record.conversation:
            said = turn.content.strip()
            start = before.find(said, done)
            if start < 0:
                raise UserError(
                    "the chat template does not repeat a prompt as it is",
                    "turn it off with `model.chat_template=off`",
                )
            done = start + len(said)
            spans.append((start, done))
        return spans
    theirs = len(style.turns(record)) - len(
        record.conversation
    )  # the system prompt of the run is no record's
    for number, turn in enumerate(style.turns(record)):
        parts = style.template.split("{prompt}") if turn.role == "user" else ["", "\n\n"]
        for place, part in enumerate(parts):
            done += len(part)
            if place < len(parts) - 1:
                if number >= theirs:
                    spans.append((done, done + len(turn.content)))
                done += len(turn.content)
    return spans


def _block(text: str, spans: Sequence[Span], opening: int) -> Located:
    """The block of the tokens at ``spans``, after ``opening`` tokens that stand for no text."""
    said = [span for span in spans if span[1] > span[0]]
    own = (said[0][0], said[-1][1]) if said else (0, 0)
    return Located(text, ((0, 0),) * opening + tuple(spans), (own,))
