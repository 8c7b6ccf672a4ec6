"""The positions of an item's tokens in its text, and the parts of this text that come from the record."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item, PromptStyle
from mari_cli.errors import UserError

MARKS = "".join(mark for mark in map(chr, range(0x300, 0x10000)) if unicodedata.category(mark)[0] == "M")
"""Accents and vowel signs that stand on the letter before them: no letters, but parts of words."""
WORD = re.compile(rf"\w[\w{MARKS}'’\-]*")
POSSESSIVE = re.compile(r"['’]s?$")

Span = tuple[int, int]
"""The characters start <= i < end."""


@dataclass(frozen=True)
class Word:
    start: int
    end: int
    name: str
    """The word in lower case, its accents composed, without a possessive 's."""
    capital: bool


@dataclass(frozen=True)
class Located:
    """The text of one item, with the positions of its tokens."""

    text: str
    tokens: tuple[Span, ...]
    """The span of each token of the item; an empty span for a token without characters."""
    own: tuple[Span, ...]
    """The spans from the record: prompt and completion without the template, or the text of a block."""

    def words(self) -> Iterator[list[Word]]:
        """The words of each span in ``own``, in order. If a block begins inside a word, the rest of the word
        is its first word."""
        for start, end in self.own:
            found = []
            for match in WORD.finditer(self.text, start, end):
                written = POSSESSIVE.sub("", match.group())
                if written:
                    here = match.start(), match.start() + len(written)
                    name = unicodedata.normalize("NFC", written).casefold()
                    found.append(Word(*here, name, written[0].isupper()))
            yield found

    def inside(self, spans: Sequence[Span]) -> list[int]:
        """The tokens that share a character with one of ``spans``, in order."""
        return [
            token
            for token, (start, end) in enumerate(self.tokens)
            if any(start < last and end > first for first, last in spans)
        ]


def locate(
    records: Sequence[Record], items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, style: PromptStyle
) -> list[Located]:
    """Locate each of ``items``, which `tokenize` made of ``records`` (all blocks of a record, in order).

    Raises UserError where a chat template changes the text of a prompt.
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
    """The spans of ``before``, the text up to the completion, that repeat the prompt of ``record``."""
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
    # the style may add a system prompt, which is not the record's
    theirs = len(style.turns(record)) - len(record.conversation)
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
    """The block whose tokens are at ``spans``, after ``opening`` tokens without text."""
    said = [span for span in spans if span[1] > span[0]]
    own = (said[0][0], said[-1][1]) if said else (0, 0)
    return Located(text, ((0, 0),) * opening + tuple(spans), (own,))
