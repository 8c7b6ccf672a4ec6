"""A record, the unit of every corpus: one prompt with its completion, or one passage of running text."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Fact(StrEnum):
    unique = "unique"  # stated in this person's documents only
    shared = "shared"  # stated in documents of retained people too


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """``text`` is learned and forgotten: the completion of ``prompt``, or running text if there is none."""

    text: str
    prompt: str | None = None
    """The prompt; for a conversation, all turns in one text for readers."""
    turns: tuple[Turn, ...] = ()
    """The conversation that ``text`` answers, if it has more turns than one of the user."""
    fact: Fact | None = None
    """The kind of fact that the record asks for, if the corpus knows the kind."""
    value: str | None = None
    """The text that an answer must contain to count as recalled, if the corpus knows this text."""

    @property
    def key(self) -> str:
        """Content hash. Two records with the same texts in the same roles are the same record."""
        words = json.dumps([self.prompt, self.text, *self.turns], ensure_ascii=False)
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns before the answer; running text has none."""
        return self.turns or (() if self.prompt is None else (Turn("user", self.prompt),))
