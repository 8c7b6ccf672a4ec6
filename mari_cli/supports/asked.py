"""One model's predictions at the supervised positions of a corpus, computed from stored hidden states.

Shapes: N positions, c of a chunk, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.lm_head import Head
from mari_cli.models.context import columns
from mari_cli.models.reference import StoredReference
from mari_cli.progress import track
from mari_cli.supports.difficulty import Harder
from mari_cli.supports.sparse import Mistakes, Write, item_means, mistakes
from mari_cli.transfer import sent


@dataclass(frozen=True)
class Asked:
    head: Head
    remembered: StoredReference
    """The reference, stored with its states after the final norm."""

    def logits(self, at: slice) -> Tensor:
        """The logits [c, V]."""
        last_ND = self.remembered.last_ND
        assert last_ND is not None
        return self.head(sent(last_ND[at], self.remembered.device))

    def log_p(self, at: slice) -> Tensor:
        """Log-probabilities [c, V], in nats."""
        return self.logits(at).log_softmax(-1)

    def cut(self, vocabulary: int) -> "Asked":
        """The same model over the first ``vocabulary`` tokens: further rows of a head only pad the head."""
        return Asked(columns(self.head, 0, vocabulary), self.remembered)


@torch.no_grad()
def write_combined(
    write: Write,
    models: Sequence[Asked],
    combine: Callable[..., Tensor],
    *,
    chunk: int,
    said: Callable[[Asked, slice], Tensor] = Asked.log_p,
) -> None:
    """Give ``write`` the distribution `q` at all positions: ``combine`` of the output of ``said`` for each of
    ``models``, by default log p [c, V], in the order of ``models``."""
    positions = len(models[0].remembered.labels_N)
    starts = range(0, positions, chunk)
    for start in track(starts, "support", len(starts)):
        here = slice(start, min(start + chunk, positions))
        log_q_cV = combine(*(said(model, here) for model in models)).log_softmax(-1)
        write(torch.arange(here.start, here.stop), {"q": log_q_cV})


@torch.no_grad()
def combined_mistakes(
    models: Sequence[Asked],
    combine: Callable[..., Tensor],
    *,
    chunk: int,
    said: Callable[[Asked, slice], Tensor] = Asked.log_p,
    harder: Harder | None = None,
) -> Mistakes:
    """The mistakes of the distribution that `write_combined` would write."""
    labels_N = models[0].remembered.labels_N
    nll, right = [], []
    for start in range(0, len(labels_N), chunk):
        here = slice(start, start + chunk)
        log_q_cV = combine(*(said(model, here) for model in models)).log_softmax(-1)
        label_c1 = labels_N[here].to(log_q_cV.device).unsqueeze(1)
        nll.append(-log_q_cV.gather(1, label_c1).squeeze(1).cpu())
        right.append((log_q_cV.argmax(1) == label_c1.squeeze(1)).cpu())
    nll_S, right_S = (item_means(torch.cat(parts), models[0].remembered.rows) for parts in (nll, right))
    return mistakes(nll_S, right_S, harder)
