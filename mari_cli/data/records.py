"""The unit of every corpus: one prompt with its completion, or one passage of running text."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum


class Fact(StrEnum):
    unique = "unique"  # stated in this person's documents only
    shared = "shared"  # stated in documents of retained people too


@dataclass(frozen=True, kw_only=True)
class Record:
    """``text`` is learned and forgotten: the completion of ``prompt``, or running text if there is none."""

    text: str
    prompt: str | None = None
    fact: Fact | None = None
    """What kind of fact the record asks for, where the corpus knows."""
    value: str | None = None
    """What an answer must contain to count as recalled, where the corpus knows."""

    @property
    def key(self) -> str:
        """Content hash: two records with the same words are the same record."""
        words = json.dumps([self.prompt, self.text], ensure_ascii=False)
        return hashlib.sha256(words.encode()).hexdigest()
