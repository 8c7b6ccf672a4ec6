"""The examination of one model. Scores and answers are cached, piece by piece, under a hash of everything
that determines them, so an interrupted examination continues, and no question is asked twice."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mari_cli.config import MetricsConfig
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item
from mari_cli.metrics.corpora import SCORED
from mari_cli.metrics.version import version_of
from mari_cli.models.fingerprint import cache_key, described
from mari_cli.models.load import LanguageModel
from mari_cli.progress import Track, silent
from mari_cli.storage import hashing, json_cache
from mari_cli.storage.hashing import key_hash
from mari_cli.suites.generate import decode, generate, question_and_truth
from mari_cli.suites.gradients import gradnorms
from mari_cli.suites.scores import ItemScore, score

R = TypeVar("R")

_SCORES = ("mari_cli.suites.scores", "mari_cli.metrics.answer", "mari_cli.metrics.gap")
CODE = {
    "scores": (*_SCORES, *(column.score.__module__ for column in SCORED.values() if column.score)),
    "answers": ("mari_cli.suites.generate",),
    "gradnorms": ("mari_cli.suites.gradients", "mari_cli.metrics.membership"),
}
"""The modules whose code computes each kind of result: a part of every cache key."""
PIECE = 64
"""Items per cache file: an interruption loses at most these."""


@dataclass(frozen=True)
class Examiner:
    lm: LanguageModel
    config: MetricsConfig
    seed: int
    weights: str
    """Hash of the model's weights."""
    cache: Path | None
    track: Track
    name: str
    """The model's name, for progress bars."""

    def tokenize(self, records: Sequence[Record], *, corpus: str) -> list[Item]:
        """An item for each pair, in the prompt style of the model."""
        return self.lm.tokenize(list(records), corpus=corpus, block_size=None, truncate=False)

    def score(self, items: Sequence[Item], what: str) -> list[ItemScore]:
        """The scores of all items, from one forward pass for each item."""

        def ask(some: list[Item]) -> list[dict[str, Any]]:
            scored = score(
                self.lm,
                some,
                batch_size=self.config.batch_size,
                min_k=self.config.min_k,
                track=silent,
                description="",
            )
            return [dict(item) for item in scored.items]

        settings = {"min_k": self.config.min_k}
        rows = self._kept("scores", settings, items, ask, f"scoring {what}")
        return [
            ItemScore({name: math.nan if value is None else value for name, value in row.items()})
            for row in rows
        ]

    def answers(
        self, items: Sequence[Item], what: str, *, max_new_tokens: int | None = None, strip: bool = True
    ) -> list[str]:
        """The greedy answer to each item's prompt; ``strip`` removes the white space around it."""
        most = max_new_tokens or self.config.max_new_tokens

        def ask(some: list[Item]) -> list[list[int]]:
            questions = [question_and_truth(item)[0] for item in some]
            return generate(
                self.lm,
                questions,
                max_new_tokens=most,
                batch_size=self.config.batch_size,
                track=silent,
                description="",
            )

        settings = {"max_new_tokens": most}
        said = self._kept("answers", settings, items, ask, f"answering {what}")
        return [decode(self.lm, ids, strip=strip) for ids in said]

    def gradnorms(self, items: Sequence[Item], what: str) -> list[float]:
        """The gradient norm of each item, from one backward pass for each item."""

        def ask(some: list[Item]) -> list[float]:
            return gradnorms(self.lm, some, track=silent, description="")

        return self._kept("gradnorms", {}, items, ask, f"gradient norms of {what}")

    def _kept(
        self,
        kind: str,
        settings: dict[str, Any],
        items: Sequence[Item],
        ask: Callable[[list[Item]], list[R]],
        description: str,
    ) -> list[R]:
        order = sorted(range(len(items)), key=lambda i: len(items[i].input_ids))
        pieces = [order[start : start + PIECE] for start in range(0, len(order), PIECE)]
        found: dict[int, R] = {}

        def one_by_one() -> Iterator[tuple[int, R]]:
            for piece in pieces:
                some = [items[i] for i in piece]
                yield from zip(piece, self._piece(kind, settings, some, ask), strict=True)

        for i, result in self.track(one_by_one(), f"{self.name}: {description}", len(items)):
            found[i] = result
        return [found[i] for i in range(len(items))]

    def _piece(
        self, kind: str, settings: dict[str, Any], items: list[Item], ask: Callable[[list[Item]], list[R]]
    ) -> list[R]:
        if self.cache is None:
            return ask(items)
        asked = {**settings, "batch_size": self.config.batch_size, "items": items_hash(items)}
        key = key_hash(self.key(kind, version_of(*CODE[kind]), asked))
        path = self.cache / kind / key[:2] / f"{key}.json"
        found: list[R] | None = json_cache.read(path)
        if found is None:
            found = json_cache.write(path, ask(items))
        return found

    def key(self, kind: str, definition: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`cache_key` of this model for ``asked``."""
        return cache_key(kind, definition, self._described, asked)

    @cached_property
    def _described(self) -> dict[str, Any]:
        return described(self.lm, self.weights)


def items_hash(items: Sequence[Item]) -> str:
    """Content hash of token sequences and their supervised parts."""
    return hashing.content_hash([[list(item.input_ids), item.supervised_from] for item in items])
