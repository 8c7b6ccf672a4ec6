"""One forward pass per item serves every teacher-forced metric.

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
from mari_cli.metrics import attacks, likelihood, memorization
from mari_cli.metrics.gap import true_token_gap
from mari_cli.models.load import LanguageModel
from mari_cli.models.trunk import hidden_states
from mari_cli.progress import Track

CHUNK_BYTES = 128 * 2**20
"""Of float32 logits that exist at one time."""


@dataclass(frozen=True)
class ItemScore:
    """Losses in nats; shares in [0, 1]."""

    tokens: int
    tokens_right: int
    loss_sum: float
    answer_nll: float
    answer_probability: float
    exact_match: float
    exact_memorization: float
    extraction_strength: float
    min_k: float
    min_k_plus_plus: float
    true_token_gap: float


@dataclass(frozen=True)
class Scores:
    """Of one corpus, in the order of its items."""

    items: list[ItemScore]

    def column(self, name: str) -> list[float]:
        """One score of every item."""
        return [getattr(item, name) for item in self.items]


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
) -> Scores:
    """Score every item under ``lm``; ``min_k`` is the share of tokens of min-k and min-k++. ``keep`` is given
    the number of each item and its hidden states [n, D] on the CPU, as they come.

    Several processes take the batches in turn, and all get all scores: those of one process, to the bit.
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
        log_p, standardised, predicted, gaps = [], [], [], []
        for part_ND, part_N in zip(h_ND.split(rows), labels_N.split(rows), strict=True):
            logits_NV = head(part_ND)
            log_p.append(-torch.nn.functional.cross_entropy(logits_NV, part_N, reduction="none"))
            standardised.append(attacks.standardised(logits_NV, part_N))
            predicted.append(logits_NV.argmax(-1))
            gaps.append(true_token_gap(logits_NV, part_N))
        counts = [item.num_targets for item in chunk]
        columns = [torch.cat(parts).cpu().split(counts) for parts in (log_p, standardised, predicted, gaps)]
        of_items = [_score_item(*values, k=min_k) for values in zip(*columns, targets, strict=True)]
        if keep is None:
            return [(of_item, None) for of_item in of_items]
        kept = h_ND.cpu().split(counts)
        return [(of_item, h_TD.clone()) for of_item, h_TD in zip(of_items, kept, strict=True)]

    batches = list(length_sorted([len(item.input_ids) for item in items], batch_size))
    results = track(distributed.spread(batches, of_batch), description, len(batches))
    for indices, result in zip(batches, results, strict=True):
        for i, (of_item, h_TD) in zip(indices, result, strict=True):
            scored[i] = of_item
            if keep is not None and h_TD is not None:
                keep(i, h_TD)
    return Scores([item for item in scored if item is not None])


def chunk_rows(vocabulary: int) -> int:
    return max(8, CHUNK_BYTES // (4 * vocabulary))


def _score_item(
    log_p_T: Tensor, standardised_T: Tensor, predicted_T: Tensor, gap_T: Tensor, labels_T: Tensor, *, k: float
) -> ItemScore:
    return ItemScore(
        tokens=len(labels_T),
        tokens_right=int((predicted_T == labels_T).sum()),
        loss_sum=-log_p_T.double().sum().item(),
        answer_nll=likelihood.answer_nll(-log_p_T),
        answer_probability=likelihood.answer_probability(-log_p_T),
        exact_match=memorization.exact_match(predicted_T, labels_T),
        exact_memorization=memorization.exact_memorization(predicted_T, labels_T),
        extraction_strength=memorization.extraction_strength(predicted_T, labels_T),
        min_k=attacks.min_k(log_p_T, k),
        min_k_plus_plus=attacks.min_k_plus_plus(standardised_T, k),
        true_token_gap=gap_T.mean().item(),
    )
