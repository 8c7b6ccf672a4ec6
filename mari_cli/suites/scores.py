"""Scores of items: one forward pass per item serves every teacher-forced metric.

Shapes: N supervised positions, T targets of one item, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.data.batches import length_sorted
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.metrics.answer import OF_LOGITS, AnswerTokens
from mari_cli.metrics.corpora import SCORED
from mari_cli.models.backbone import hidden_states
from mari_cli.models.load import LanguageModel
from mari_cli.progress import Track

CHUNK_BYTES = 128 * 2**20
"""Bytes of float32 logits that exist at one time."""


class ItemScore(dict[str, float]):
    """Every value of one item in `SCORED`, by name; ``score.answer_nll`` is ``score["answer_nll"]``."""

    def __getattr__(self, name: str) -> float:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    @property
    def stored(self) -> dict[str, float]:
        """The values in items.jsonl, from which the others are computed."""
        return {name: value for name, value in self.items() if SCORED[name].made_of is None}


@dataclass(frozen=True)
class CorpusScores:
    """The scores of one corpus, in the order of its items."""

    items: list[ItemScore]

    def column(self, name: str) -> list[float]:
        """One score of every item."""
        return [item[name] for item in self.items]


@torch.no_grad()
def score(
    lm: LanguageModel,
    items: Sequence[Item],
    *,
    batch_size: int,
    min_k: float,
    track: Track,
    description: str,
    keep: Callable[[int, Tensor], None] | None = None,
) -> CorpusScores:
    """Score every item under ``lm``; ``min_k`` is the share of tokens of min-k and min-k++. ``keep`` receives
    each item's number and its hidden states [n, D] on the CPU.

    Several processes share the batches, and all get all scores, bit for bit those of a single process.
    """
    lm.model.eval()
    head = head_of(lm.model)
    rows = chunk_rows(len(head.weight_VD))
    scored: list[ItemScore | None] = [None] * len(items)

    def of_batch(indices: list[int]) -> list[tuple[ItemScore, Tensor | None]]:
        chunk = [items[i] for i in indices]
        h_ND, _ = hidden_states(lm.model, lm.compute, chunk, packed=lm.layout.packed)
        targets = [torch.tensor(item.input_ids[item.supervised_from :]) for item in chunk]
        labels_N = torch.cat(targets).to(lm.device)
        found: dict[str, list[Tensor]] = {name: [] for name in OF_LOGITS}
        for part_ND, part_N in zip(h_ND.split(rows), labels_N.split(rows), strict=True):
            logits_NV = head(part_ND)
            for name, of_logits in OF_LOGITS.items():
                found[name].append(of_logits(logits_NV, part_N))
        counts = [item.num_targets for item in chunk]
        columns = {name: torch.cat(parts).cpu().split(counts) for name, parts in found.items()}
        of_items = [
            _score_item(
                AnswerTokens(
                    labels_T=labels_T, min_k=min_k, **{name: column[i] for name, column in columns.items()}
                )
            )
            for i, labels_T in enumerate(targets)
        ]
        if keep is None:
            return [(of_item, None) for of_item in of_items]
        kept = h_ND.cpu().split(counts)
        return [(of_item, h_TD.clone()) for of_item, h_TD in zip(of_items, kept, strict=True)]

    batches = list(length_sorted([len(item.input_ids) for item in items], batch_size))
    results = track(distributed.map_over_processes(batches, of_batch), description, len(batches))
    for indices, result in zip(batches, results, strict=True):
        for i, (of_item, h_TD) in zip(indices, result, strict=True):
            scored[i] = of_item
            if keep is not None and h_TD is not None:
                keep(i, h_TD)
    return CorpusScores([item for item in scored if item is not None])


def chunk_rows(vocabulary: int) -> int:
    return max(8, CHUNK_BYTES // (4 * vocabulary))


def _score_item(answer: AnswerTokens) -> ItemScore:
    return ItemScore({name: column.score(answer) for name, column in SCORED.items() if column.score})
