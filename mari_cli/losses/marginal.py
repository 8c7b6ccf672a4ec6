"""Marginal information: the information that the forget data adds to the support of the retain data.

S. Xu, Y. Ni, S. Broecker, T. Strohmer, "Forgetting-MarI: LLM Unlearning via Marginal Information
Regularization", 2025, https://arxiv.org/abs/2511.11914. Z is binary: 0 "this position comes from retain data
alone", 1 "from retain and forget data together", P(Z=1) = ``prior``; X is a token that the model draws at
such a position. The term to minimise is the mutual information I(X;Z), a generalised Jensen-Shannon
divergence in nats, 0 <= I <= H(Z) <= log 2.

The paper names the *pooled* and the *token-wise* estimator. Its weights of positions are not public, so the
weights here are this project's (`pools_by_index` states them).

Shapes: N, M = supervised positions of retain and forget data in one optimiser step, V = vocabulary, C =
positions in a completion, D = hidden size of the reference.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def prior_of(prior: float | None, *, retain: int, forget: int) -> float:
    """P(Z=1): ``prior``, or for None by the counts of ``retain`` and ``forget`` positions in a step."""
    return prior if prior is not None else (retain + forget) / (2 * retain + forget)


def generalised_jsd(p_r: Tensor, p_ru: Tensor, prior: Tensor | float) -> Tensor:
    """I(X;Z) of ``p_r`` [..., V] (Z=0) and ``p_ru`` [..., V] (Z=1), in nats, over the last dimension.

    Near I = 0 the textbook form subtracts almost equal logarithms; log1p of the difference keeps its digits.
    The logarithms carry no gradient because their part of the gradient is 0: (1-π) p_r d log(p_r/m) + π p_ru
    d log(p_ru/m) = (1-π) dp_r + π dp_ru - dm = 0.
    """
    prior = torch.as_tensor(prior, dtype=p_r.dtype, device=p_r.device)
    if prior.dim():
        prior = prior.unsqueeze(-1)
    with torch.no_grad():
        tiny = torch.finfo(p_r.dtype).tiny
        difference = p_ru - p_r
        log_r = -torch.log1p(prior * difference / p_r.clamp_min(tiny))
        log_ru = -torch.log1p(-(1 - prior) * difference / p_ru.clamp_min(tiny))
        log_r = torch.where(p_r > 0, log_r, 0.0)
        log_ru = torch.where(p_ru > 0, log_ru, 0.0)
    return ((1 - prior) * p_r * log_r + prior * p_ru * log_ru).sum(-1)


def with_rest(supported_MK: Tensor) -> Tensor:
    """The probabilities and, last, 1 minus their sum [M, K+1]."""
    rest_M1 = (1 - supported_MK.sum(-1, keepdim=True)).clamp_min(0)
    return torch.cat([supported_MK, rest_M1], -1)


def information_and_gradient(
    p_r: Tensor, p_u: Tensor, prior: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """I(X;Z) of the two sides' mean predictions [..., V], and its gradients there, without an autograd graph.

    ``prior`` and ``share`` [...]: P(Z=1) and the forget side's weight in the joint distribution. As in
    `generalised_jsd`, ∂I/∂p_ru = π log(p_ru/m), of which the forget side gets ``share`` and the retain side
    the rest; the retain side also gets ∂I/∂p_r = (1-π) log(p_r/m).
    """
    prior, share = prior.to(p_r).unsqueeze(-1), share.to(p_r).unsqueeze(-1)
    tiny = torch.finfo(p_r.dtype).tiny
    difference = (p_u - p_r).mul_(share)  # p_ru - p_r
    p_ru = p_r + difference
    log_r = torch.where(p_r > 0, -torch.log1p(prior * difference / p_r.clamp_min(tiny)), 0.0)
    log_ru = torch.where(p_ru > 0, -torch.log1p((prior - 1) * difference / p_ru.clamp_min(tiny)), 0.0)
    del difference
    log_r *= 1 - prior
    log_ru *= prior
    information = (p_r * log_r).sum(-1) + (p_ru * log_ru).sum(-1)
    gradient_r = log_r.add_(log_ru * (1 - share))
    return information, gradient_r, log_ru.mul_(share)


@dataclass(frozen=True)
class Pools:
    """The pools of positions whose predictions are averaged, and the weights by which pools add up.

    C pools; I = sum over pools of ``weight`` · I(X;Z | pool). All are tensors on the CPU, because the tokens
    alone determine the pools, before any forward pass.
    """

    retain_N: Tensor
    """The pool of each retain position; -1: no pool."""
    forget_M: Tensor
    retain_count_C: Tensor
    """Retain positions of the whole step in each pool, other processes' included."""
    forget_count_C: Tensor
    weight_C: Tensor
    prior_C: Tensor
    share_C: Tensor

    def __len__(self) -> int:
        return len(self.weight_C)

    def names(self) -> dict[str, Tensor]:
        return {"retain": self.retain_N, "forget": self.forget_M}

    def counts(self) -> dict[str, Tensor]:
        return {"retain": self.retain_count_C, "forget": self.forget_count_C}


def one_pool(retain: int, forget: int, *, totals: tuple[int, int], prior: float, share: float) -> Pools:
    """The pool of the pooled estimator: all ``retain`` and ``forget`` positions; ``totals`` are the step's.
    I(X;Z) compares two vectors: the mean prediction over retain, and over retain and forget together."""

    def one(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64)

    return Pools(
        torch.zeros(retain, dtype=torch.long),
        torch.zeros(forget, dtype=torch.long),
        one(totals[0]),
        one(totals[1]),
        one(1.0),
        one(prior),
        one(share),
    )


def pools_by_index(index_r_N: Tensor, index_u_M: Tensor, *, prior: float, share: float) -> Pools:
    """The pools of the token-wise estimator, I(X;Z|C) with C the index of a token in its completion or block:
    one pool for each index that both corpora have.

    With a_c and u_c the shares of retain and forget tokens at index c, the joint distribution fixes
    everything else: b_c = (1-ρ) a_c + ρ u_c, P(c) = (1-π) a_c + π b_c, P(Z=1|c) = π b_c / P(c), forget share
    at c = ρ u_c / b_c. An index that only one corpus has adds nothing: there C determines Z, so X cannot add
    information. If all completions have one length, I(X;Z|C) is the plain mean over indices.
    """
    length = int(torch.cat([index_r_N, index_u_M]).max()) + 1
    count_r_C = torch.bincount(index_r_N, minlength=length).double()
    count_u_C = torch.bincount(index_u_M, minlength=length).double()
    both_C = (count_r_C > 0) & (count_u_C > 0)
    name_C = torch.where(both_C, both_C.cumsum(0) - 1, -1)
    count_r_C, count_u_C = count_r_C[both_C], count_u_C[both_C]
    a_C, u_C = count_r_C / len(index_r_N), count_u_C / len(index_u_M)
    b_C = (1 - share) * a_C + share * u_C
    p_C = (1 - prior) * a_C + prior * b_C
    return Pools(
        name_C[index_r_N], name_C[index_u_M], count_r_C, count_u_C, p_C, prior * b_C / p_C, share * u_C / b_C
    )


def own_pools(pools: Pools, *, processes: int, process: int) -> tuple[Pools, dict[str, Tensor]]:
    """The pools of ``process``, one of several, and by role the positions that it works on.

    A process has whole pools, so that no pool has to be summed over processes; positions without a pool even
    out the loads. The result depends on the pools alone, so every process knows the parts of all.
    """
    loads = [0.0] * processes
    owner_C = torch.empty(len(pools), dtype=torch.long)
    size_C = pools.retain_count_C + pools.forget_count_C
    for c in size_C.argsort(descending=True, stable=True).tolist():
        least = min(range(processes), key=loads.__getitem__)
        owner_C[c] = least
        loads[least] += float(size_C[c])
    positions = {}
    for role, name_N in pools.names().items():
        owner_N = torch.where(name_N < 0, -1, owner_C[name_N]) if len(pools) else name_N.clone()
        free = (owner_N < 0).nonzero().squeeze(-1)
        level = (sum(loads) + len(free)) / processes
        room = torch.tensor([max(0.0, level - load) for load in loads], dtype=torch.float64)
        ends = (room.cumsum(0) / room.sum().clamp_min(1e-9) * len(free)).round().long()
        owner_N[free] = torch.searchsorted(ends, torch.arange(len(free)), right=True).clamp_max(processes - 1)
        for k, added in enumerate(torch.bincount(owner_N[free], minlength=processes).tolist()):
            loads[k] += added
        positions[role] = (owner_N == process).nonzero().squeeze(-1)
    mine_C = owner_C == process
    renamed_C = torch.where(mine_C, mine_C.cumsum(0) - 1, -1)

    def renamed(role: str) -> Tensor:
        name_N = pools.names()[role][positions[role]]
        return torch.where(name_N < 0, -1, renamed_C[name_N]) if len(pools) else name_N

    of_pools = (pools.retain_count_C, pools.forget_count_C, pools.weight_C, pools.prior_C, pools.share_C)
    mine = Pools(renamed("retain"), renamed("forget"), *(x_C[mine_C] for x_C in of_pools))
    return mine, positions
