"""The unit of every corpus: one prompt with its completion, or one passage of running text."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Fact(StrEnum):
    unique = "unique"  # stated in this person's documents only
    shared = "shared"  # stated in documents of retained people too


class Turn(NamedTuple):
    """What one side of a conversation says."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """``text`` is learned and forgotten: the completion of ``prompt``, or running text if there is none."""

    text: str
    prompt: str | None = None
    """Of a conversation: its turns as they are shown to a reader."""
    turns: tuple[Turn, ...] = ()
    """The conversation that ``text`` answers, where it is more than one turn of the user's."""
    fact: Fact | None = None
    """What kind of fact the record asks for, where the corpus knows."""
    value: str | None = None
    """What an answer must contain to count as recalled, where the corpus knows."""

    @property
    def key(self) -> str:
        """Content hash: two records with the same words, said by the same sides, are the same record."""
        words = json.dumps([self.prompt, self.text, *self.turns], ensure_ascii=False)
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns before the answer; of running text none."""
        return self.turns or (() if self.prompt is None else (Turn("user", self.prompt),))
