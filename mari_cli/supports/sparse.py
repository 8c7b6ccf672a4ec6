"""Sparse distributions over a vocabulary, as a step uses them: label, most probable other tokens, tail.

The cache has a source's log-probabilities, in nats, at the M forget positions: of one distribution, or of
several over the same tokens, from which q is computed. No tensor exceeds a chunk of positions times V.

A function of several distributions is no function of the sums of their tails: where one is certain of a token
that another excludes, the product of both sums is many times the sum of the products. For such a function
some tokens of the tail are drawn and stored too, each with its weight.

Shapes: M forget positions, c or m some of them, V vocabulary, K stored tokens; K+1: these and the tail; R
drawn tokens; L = K + 1 + R.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mari_cli.models.context import Targets, largest
from mari_cli.models.reference import ItemRows
from mari_cli.storage import hashing
from mari_cli.storage.tensor_cache import TensorSpec, cache_tensors
from mari_cli.supports.difficulty import Harder

DEFINITION = 1
"""Part of every cache key: raise it when a change here changes what is stored."""
DRAWN_DEFINITION = 1
"""The same for `draw_of_tail`."""
BLOCK = 65536
"""Positions per block where no tensor is as wide as the vocabulary."""

DRAWN = "drawn"
"""The name of the weights of the drawn tokens, beside those of the distributions."""

Write = Callable[[Tensor, Mapping[str, Tensor]], None]
"""A function of the numbers of some forget positions [c], and of log p [c, V] of each distribution."""


@dataclass(frozen=True)
class Kept:
    """The stored predictions of a source at the forget positions: memory-mapped, on the CPU."""

    key: str
    """Content hash of all that determines the stored values."""
    rows: ItemRows
    ids_MK: Tensor
    """Tokens, int32: the position's label first."""
    log_p: Mapping[str, Tensor]
    """By the distribution's name, the log-probability of each token, of the tail, and of the drawn tokens
    [M, L], float32; if R > 0, `DRAWN`: the logarithm of the number of tokens that each stands for [M, R]."""

    def blocks(self) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """All positions in blocks, in float64."""
        for start in range(0, len(self.ids_MK), BLOCK):
            here = slice(start, start + BLOCK)
            yield here, {name: log_p[here].double() for name, log_p in self.log_p.items()}


def kept(
    fill: Callable[[Write], None],
    names: Sequence[str],
    *,
    rows: ItemRows,
    labels_M: Tensor,
    vocabulary: int,
    stored_tokens: int,
    directory: Path,
    key: Mapping[str, Any],
    name: str,
    drawn_tokens: int = 0,
) -> Kept:
    """The distributions ``names`` at the positions of ``rows``: from the cache in ``directory``, or written
    there by ``fill``. ``key`` is all that determines them besides the arguments. ``stored_tokens`` are kept
    beside the label, and ``drawn_tokens`` of the tail; ``name`` is for messages."""
    tokens = min(stored_tokens, vocabulary - 1) + 1
    drawn = min(drawn_tokens, vocabulary - tokens)
    whole_key = {**key, "definition": DEFINITION, "distributions": list(names), "stored_tokens": tokens}
    parts = {"ids": TensorSpec((len(labels_M), tokens), torch.int32)} | {
        part: TensorSpec((len(labels_M), tokens + 1 + drawn), torch.float32) for part in names
    }
    if drawn:
        whole_key["drawn"] = [DRAWN_DEFINITION, drawn]
        parts[DRAWN] = TensorSpec((len(labels_M), drawn), torch.float32)

    def fill_in(tensors: Mapping[str, Tensor]) -> None:
        def write(at_c: Tensor, log_p: Mapping[str, Tensor]) -> None:
            ids_cK = most_probable([log_p[part] for part in names], labels_M[at_c], tokens=tokens)
            tensors["ids"][at_c] = ids_cK.int().cpu()
            for part, said in in_part({name: log_p[name] for name in names}, ids_cK, drawn=drawn).items():
                tensors[part][at_c] = said.float().cpu()

        fill(write)

    tensors = cache_tensors(directory / "support", whole_key, parts, fill_in, name=name)
    return Kept(hashing.content_hash(whole_key), rows, tensors.pop("ids"), tensors)


def most_probable(log_p: Sequence[Tensor], labels_c: Tensor, *, tokens: int) -> Tensor:
    """[c, tokens]: the label, then the other tokens by the largest log-probability that any of ``log_p``
    [c, V] gives them; of equal ones the lower token first."""
    best_cV = reduce(torch.maximum, log_p).clone()
    label_c1 = labels_c.to(best_cV.device).unsqueeze(1)
    best_cV.scatter_(1, label_c1, -math.inf)  # excludes the label from the others
    return torch.cat([label_c1, largest(best_cV, tokens - 1)[1]], 1)


def with_tail(log_p_cV: Tensor, ids_cK: Tensor) -> Tensor:
    """log p of ``ids_cK``, and of all other tokens together [c, K+1]."""
    named_cK = log_p_cV.gather(1, ids_cK)
    tail_c = log_p_cV.scatter(1, ids_cK, -math.inf).logsumexp(1)
    return torch.cat([named_cK, tail_c.unsqueeze(1)], 1)


def in_part(log_p: Mapping[str, Tensor], ids_cK: Tensor, *, drawn: int) -> dict[str, Tensor]:
    """What `Kept.log_p` has of the distributions ``log_p`` [c, V], with ``drawn`` tokens of the tail."""
    parts = {name: with_tail(log_p_cV, ids_cK) for name, log_p_cV in log_p.items()}
    if not drawn:
        return parts
    drawn_cR, weight_cR = draw_of_tail(list(log_p.values()), ids_cK, tokens=drawn)
    parts = {name: torch.cat([part, log_p[name].gather(1, drawn_cR)], 1) for name, part in parts.items()}
    return parts | {DRAWN: weight_cR}


def draw_of_tail(log_p: Sequence[Tensor], ids_cK: Tensor, *, tokens: int) -> tuple[Tensor, Tensor]:
    """``tokens`` tokens [c, R] that are none of ``ids_cK``, and the logarithm of the number of tokens that
    each stands for: Σ exp(weight) f(token) is near the sum of f over the tail. Where the tail has no more
    tokens, all of them, with weight 0.

    The draws are systematic: the tail, in the order of the largest probability b that any of ``log_p`` [c, V]
    gives a token, is cut into R parts of equal share, and the token in the middle of each part is taken. A
    token's share is the mean of b / Σ b and of 1 / (tokens of the tail), so that neither a probable token nor
    the many improbable ones are missed. Nothing is random.
    """
    best_cV = reduce(torch.maximum, log_p).scatter(1, ids_cK, -math.inf)
    in_tail = best_cV.shape[1] - ids_cK.shape[1]
    best_cT, id_cT = (of[:, :in_tail] for of in best_cV.sort(dim=1, descending=True, stable=True))
    if in_tail <= tokens:
        return id_cT, torch.zeros_like(best_cT)
    share_cT = (best_cT.double().softmax(1).nan_to_num(0) + 1 / in_tail) / 2
    ends_cT = share_cT.cumsum(1)
    middles_R = (torch.arange(tokens, dtype=ends_cT.dtype, device=ends_cT.device) + 0.5) / tokens
    place_cR = torch.searchsorted(ends_cT, middles_R * ends_cT[:, -1:]).clamp_max(in_tail - 1)
    return id_cT.gather(1, place_cR), -(tokens * share_cT.gather(1, place_cR)).log()


def floored(log_q_mL: Tensor, floor: float) -> Tensor:
    """The probabilities [m, K+1], normalised and mixed with the uniform distribution so that none is below
    ``floor``. A tail without tokens stays 0."""
    q_mL = log_q_mL.softmax(-1)
    there_mL = (log_q_mL > -math.inf).to(q_mL)
    there_mL[:, :-1] = 1
    return q_mL * (1 - floor * there_mL.sum(-1, keepdim=True)) + floor * there_mL


def targets(
    said: Kept,
    supported: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    floor: float,
    key: Mapping[str, Any],
    directory: Path,
    device: torch.device,
    name: str,
    change: Callable[[Tensor, slice], Tensor] | None = None,
) -> Targets:
    """The distributions that a step uses. ``supported`` computes log q [m, K+1] from those in ``said``, and
    ``change`` another q [m, K] from q and its positions. ``key`` determines both functions."""
    tokens = said.ids_MK.shape[1]
    assert floor * (tokens + 1) < 1

    def fill(tensors: Mapping[str, Tensor]) -> None:
        for here, log_p in said.blocks():
            q_mK = floored(supported(log_p), floor)[:, :-1]
            tensors["q"][here] = (q_mK if change is None else change(q_mK, here)).float()

    whole_key = {**key, "definition": DEFINITION, "said": said.key, "floor": floor}
    wanted = {"q": TensorSpec(tuple(said.ids_MK.shape), torch.float32)}
    tensors = cache_tensors(directory / "support", whole_key, wanted, fill, name=name)
    return Targets(said.rows, device, said.ids_MK, tensors["q"])


# -- what q would be as a model ------------------------------------------------------------------------------


def item_means(values_M: Tensor, rows: ItemRows) -> Tensor:
    """The mean of each item over its positions [S]."""
    counts_S = torch.tensor(list(rows.counts.values()))
    item_M = torch.repeat_interleave(torch.arange(len(counts_S)), counts_S)
    sums_S = torch.zeros(len(counts_S), dtype=torch.float64).index_add(0, item_M, values_M.double())
    return sums_S / counts_S


@dataclass(frozen=True)
class Mistakes:
    """The answers that are not recited: their mean loss in nats, and their mean share of right tokens. All
    answers where every one is recited.

    Calibration compares these answers because forget and holdout data differ in how many answers the retain
    data supports. Such answers have almost no loss, so a mean over all items would compare their number.
    """

    loss: float
    right: float


def mistakes(nll_S: Tensor, right_S: Tensor, harder: Harder | None = None) -> Mistakes:
    """The mistakes of S items with these losses and these shares of right tokens, less what ``harder`` says
    that these items cost more than the holdout's."""
    wrong_S = right_S < 1 if (right_S < 1).any() else right_S <= 1
    nll_S, right_S = nll_S.double(), right_S.double()
    if harder is not None:
        nll_S, right_S = nll_S - harder.loss_S, right_S - harder.right_S
    return Mistakes(nll_S[wrong_S].mean().item(), right_S[wrong_S].mean().item())


def mistakes_of(
    said: Kept,
    supported: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    floor: float,
    harder: Harder | None = None,
) -> Mistakes:
    """The mistakes of q: an item's loss is the mean over its positions, as in `answer_nll`."""
    nll, right = [], []
    for _, log_p in said.blocks():
        q_mL = floored(supported(log_p), floor)
        nll.append(-q_mL[:, 0].log())
        right.append(label_leads(q_mL[:, :-1]))
    nll_S, right_S = (item_means(torch.cat(parts), said.rows) for parts in (nll, right))
    return mistakes(nll_S, right_S, harder)


def label_and_best(
    said: Kept, supported: Callable[[Mapping[str, Tensor]], Tensor], *, floor: float
) -> tuple[Tensor, Tensor]:
    """log q of the label and of the most probable other token [M], float64."""
    q = [floored(supported(log_p), floor)[:, :-1] for _, log_p in said.blocks()]
    label, best = [of[:, 0].log() for of in q], [of[:, 1:].amax(1).log() for of in q]
    return torch.cat(label), torch.cat(best)


def label_leads(q_mK: Tensor) -> Tensor:
    """Whether the label, which comes first, is the most probable of the stored tokens [m]."""
    return q_mK[:, 0] > q_mK[:, 1:].amax(1)


def choices(found: Targets) -> tuple[Tensor, Tensor]:
    """For each item [S] the share of its targets at which the true token is the most probable one, and
    whether that holds at all targets, so that q recites the item. float64."""
    right_M = label_leads(found.q_MK)
    right_S = item_means(right_M, found.rows)
    return right_S, (right_S == 1).double()
