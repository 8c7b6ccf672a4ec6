"""Marginal information over whole evaluation sets, and what it says of any detector that sees one token.

The definitions are those of `mari_cli.losses.marginal` (Xu, Ni, Broecker, Strohmer, "Forgetting-MarI", 2025,
https://arxiv.org/abs/2511.11914), here over every supervised position of the retain and the forget set rather
than one optimiser step's: Z = 0 "a position of the retain data", Z = 1 "one of retain and forget together",
P(Z=1) = `prior`, X a token the model draws there. One token says at most I(X;Z) nats about Z; that nothing is
said of whole sequences is the measure's limit: a model that recites every forget answer can have a pooled
information near 0.

Shapes: N = supervised positions of a set, n = of one chunk, D = hidden size, V = vocabulary, B = bootstrap
resamples, I = items of a set, C = positions in an answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mari_cli.errors import UserError
from mari_cli.losses.marginal import generalised_jsd, with_rest
from mari_cli.metrics.bound import check_prior, fano_accuracy_bound, prior_entropy
from mari_cli.metrics.estimate import Estimate

_VALUES_AT_ONCE = 1 << 18  # of a divergence: temporaries that stay in a core's cache


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the absolute difference over the last dimension, in [0, 1]."""
    return (p - q).abs().sum(-1) / 2


def bayes_accuracy(p_r: Tensor, p_ru: Tensor, *, prior: float = 0.5) -> Tensor:
    """How often the best detector is right that sees one token of ``p_r`` (Z=0) or ``p_ru`` (Z=1).

    Over the last dimension, Σ max((1-π) p_r, π p_ru), which is 1/2 + TV/2 at prior 1/2.
    """
    check_prior(prior)
    if prior == 0.5:
        return 0.5 + total_variation(p_r, p_ru) / 2
    return 0.5 + ((1 - prior) * p_r - prior * p_ru).abs().sum(-1) / 2


@dataclass(frozen=True)
class Supervised:
    """The supervised positions of a set: hidden states that go into the head, on the CPU or wherever else,
    and where each belongs."""

    h_ND: Tensor
    item_N: Tensor
    """Which item (an integer of any size) a position is of: items are what is resampled."""
    position_N: Tensor
    """Index of the predicted token in its answer or block, from 0."""

    def __post_init__(self) -> None:
        if not len(self.h_ND) == len(self.item_N) == len(self.position_N):
            raise ValueError("states, items and positions differ in number")


@dataclass
class _SetSums:
    """One set in the making: weighted sums of predictions at the position at hand and over all positions."""

    states: Supervised
    weight_BI: Tensor
    item_N: Tensor
    tokens_B: Tensor
    position_BV: Tensor
    position_V: Tensor
    position_tokens_B: Tensor
    pooled_BV: Tensor
    pooled_V: Tensor

    @staticmethod
    def start(
        states: Supervised, resamples: int, generator: torch.Generator, logits_1V: Tensor
    ) -> "_SetSums":
        _, item_N = torch.unique(states.item_N.cpu(), return_inverse=True)
        items = int(item_N.max()) + 1
        drawn_BI = torch.randint(items, (resamples, items), generator=generator)
        weight_BI = torch.zeros(resamples, items).scatter_add_(1, drawn_BI, torch.ones(resamples, items))
        tokens_I = torch.bincount(item_N).double()
        (_, vocabulary), dtype, device = logits_1V.shape, logits_1V.dtype, logits_1V.device
        exact = torch.float64
        return _SetSums(
            states=states,
            weight_BI=weight_BI.to(logits_1V),
            item_N=item_N.to(device),
            tokens_B=(weight_BI.double() @ tokens_I).to(device),
            position_BV=torch.zeros(resamples, vocabulary, dtype=dtype, device=device),
            position_V=torch.zeros(vocabulary, dtype=exact, device=device),
            position_tokens_B=torch.zeros(resamples, dtype=exact, device=device),
            pooled_BV=torch.zeros(resamples, vocabulary, dtype=exact, device=device),
            pooled_V=torch.zeros(vocabulary, dtype=exact, device=device),
        )

    def add(self, index_n: Tensor, p_nV: Tensor) -> None:
        weight_Bn = self.weight_BI[:, self.item_N[index_n]]
        self.position_BV.addmm_(weight_Bn, p_nV)
        self.position_tokens_B += weight_Bn.sum(1, dtype=torch.float64)
        self.position_V += p_nV.sum(0, dtype=torch.float64)

    def close_position(self) -> None:
        self.pooled_BV += self.position_BV
        self.pooled_V += self.position_V
        self.position_BV.zero_()
        self.position_V.zero_()
        self.position_tokens_B.zero_()


def _divergence(
    sum_r_BV: Tensor,
    tokens_r_B: Tensor,
    sum_u_BV: Tensor,
    tokens_u_B: Tensor,
    share_B: Tensor,
    prior_B: Tensor,
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Few rows at a time: which, their mean predictions P_r and P_ru, and their information."""
    step = max(1, _VALUES_AT_ONCE // sum_r_BV.shape[1])
    for start in range(0, len(sum_r_BV), step):
        rows = slice(start, start + step)
        scale_r, scale_u, share = (
            values_B[rows].to(sum_r_BV.dtype).unsqueeze(-1)
            for values_B in (1 / tokens_r_B, 1 / tokens_u_B, share_B)
        )
        p_r = sum_r_BV[rows] * scale_r
        p_ru = p_r.lerp(sum_u_BV[rows] * scale_u, share)
        yield rows, p_r, p_ru, generalised_jsd(p_r, p_ru, prior_B[rows].to(p_r.dtype))


def _at_position(
    retain: _SetSums, forget: _SetSums, tokens: list[int], of: tuple[int, int], *, prior: float, share: float
) -> tuple[float, Tensor]:
    """What the position at hand adds to I(X;Z|C) = Σ_c P(c) I(X;Z|C=c), in the data and in each resample.

    With a_c and u_c the sets' shares of tokens at c: b_c = (1-ρ) a_c + ρ u_c, P(c) = (1-π) a_c + π b_c,
    P(Z=1|c) = π b_c / P(c), forget share at c = ρ u_c / b_c. Where only one set has tokens the addend is
    exactly 0: either both predictions are retain's, or C alone tells Z.
    """

    def terms(a: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b = (1 - share) * a + share * u
        p = (1 - prior) * a + prior * b
        return p, share * u / b, prior * b / p

    n_r_B, n_u_B = retain.position_tokens_B, forget.position_tokens_B
    p_B, share_B, prior_B = terms(n_r_B / retain.tokens_B, n_u_B / forget.tokens_B)
    information_B = torch.zeros_like(p_B)
    parts = _divergence(retain.position_BV, n_r_B, forget.position_BV, n_u_B, share_B, prior_B)
    for rows, _, _, divergence in parts:
        information_B[rows] = divergence.double()
    resampled_B = torch.where((n_r_B > 0) & (n_u_B > 0), p_B * information_B, 0.0)

    a, u = p_B.new_tensor([count / total for count, total in zip(tokens, of, strict=True)])
    p, share_here, prior_here = terms(a, u)
    p_r_V = retain.position_V / tokens[0]
    p_ru_V = p_r_V.lerp(forget.position_V / tokens[1], share_here)
    return float(p * generalised_jsd(p_r_V, p_ru_V, prior_here)), resampled_B


def _runs(order_N: Tensor, key_N: Tensor, chunk: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Chunks of positions in the order of their keys, each as runs of (key, indices)."""
    for index_n in torch.split(order_N, chunk):
        keys, counts = torch.unique_consecutive(key_N[index_n], return_counts=True)
        yield list(zip(keys.tolist(), torch.split(index_n, counts.tolist()), strict=True))


def _basic(
    value: float, resampled_B: Tensor, confidence: float, items: tuple[int, int], low: float, high: float
) -> Estimate:
    """The basic (reverse percentile) interval, within the range and no narrower than to hold the value.

    Finite sets always look different from one another, so the plug-in value is biased upwards, and its
    resamples are again. The basic interval takes that second bias as a measure of the first and so reaches
    down where a percentile interval would lie wholly above the truth; it may leave the plug-in value itself
    outside, which is then its end. A set of one item has nothing to resample: no interval.
    """
    if min(items) == 1:
        return Estimate(value=value, n=sum(items))
    tail = (1 - confidence) / 2
    quantiles = torch.quantile(resampled_B, torch.tensor([1 - tail, tail], dtype=resampled_B.dtype))
    lower, upper = (2 * value - quantiles).clamp(low, high).tolist()
    return Estimate(value=value, n=sum(items), low=min(lower, value), high=max(upper, value))


@torch.no_grad()
def marginal_information(
    retain: Supervised,
    forget: Supervised,
    head: Callable[[Tensor], Tensor],
    *,
    prior: float = 0.5,
    forget_share: float | None = None,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    chunk: int = 256,
) -> dict[str, Estimate]:
    """The five `marginal/…` metrics of a model, in nats and fractions, with bootstrap intervals over items.

    ``head`` maps hidden states [n, D], where they are, to logits [n, V], where all is computed, for at most
    ``chunk`` positions at a time: no more predictions are ever held, and no more states beside those given.
    ``forget_share`` (ρ) is a constant of the measure, not resampled; None: forget tokens over all tokens.
    Memory: three times ``resamples`` × V numbers for each set. The estimate of the data itself is summed in
    float64.
    """
    all_r, all_u = len(retain.h_ND), len(forget.h_ND)
    if all_r == 0 or all_u == 0:
        raise UserError(
            f"marginal information needs retain and forget tokens, got {all_r} and {all_u}",
            "check the corpora, or set `metrics.marginal=false`",
        )
    share = all_u / (all_r + all_u) if forget_share is None else forget_share
    probe_1V = head(retain.h_ND[:1])
    if probe_1V.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the head must give float32 or float64 logits, got {probe_1V.dtype}")
    generator = torch.Generator().manual_seed(seed)
    sides = (
        _SetSums.start(retain, resamples, generator, probe_1V),
        _SetSums.start(forget, resamples, generator, probe_1V),
    )
    token, token_B = 0.0, torch.zeros(resamples, dtype=torch.float64, device=probe_1V.device)

    # key = 2 · position + side: the sets meet at each position, so one position's sums are held at a time
    key_N = torch.cat([2 * retain.position_N.cpu().long(), 2 * forget.position_N.cpu().long() + 1])
    order_N = key_N.argsort(stable=True)
    tokens_C2 = torch.bincount(key_N, minlength=2 * (int(key_N.max()) // 2 + 1)).view(-1, 2)
    current = int(key_N.min()) // 2

    def close(position: int) -> None:
        nonlocal token, token_B
        here = tokens_C2[position].tolist()
        if all(here):
            value, value_B = _at_position(*sides, here, (all_r, all_u), prior=prior, share=share)
            token, token_B = token + value, token_B + value_B
        for side in sides:
            side.close_position()

    for runs in _runs(order_N, key_N, chunk):
        h_nD = torch.cat([sides[key % 2].states.h_ND[_within(index_n, key, all_r)] for key, index_n in runs])
        p_nV = head(h_nD).softmax(-1)
        lengths = [len(index_n) for _, index_n in runs]
        for (key, index_n), p_run in zip(runs, torch.split(p_nV, lengths), strict=True):
            if key // 2 != current:
                close(current)
                current = key // 2
            sides[key % 2].add(_within(index_n, key, all_r).to(p_nV.device), p_run)
    close(current)
    return _estimates(*sides, token, token_B, prior=prior, share=share, confidence=confidence)


@torch.no_grad()
def support_information(
    h_MD: Tensor,
    ids_MK: Tensor,
    q_MK: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    share: float,
    prior: float = 0.5,
    chunk: int = 256,
) -> float:
    """The mean over M forget positions of I(X;Z) between q, what the retain data supports there, and the
    mixture (1-ρ) q + ρ p with the model's prediction p: in nats, in [0, H(Z)], 0 where p is q.

    q is ``q_MK`` at the K tokens ``ids_MK`` and one outcome for all others. ``share``: ρ. ``head`` maps
    hidden states to logits, as in `marginal_information`.
    """
    total = 0.0
    for rows in torch.arange(len(h_MD)).split(chunk):
        p_nV = head(h_MD[rows]).double().softmax(-1)
        p_nL = with_rest(p_nV.gather(-1, ids_MK[rows].to(p_nV.device).long()))
        q_nL = with_rest(q_MK[rows].to(p_nL))
        total += float(generalised_jsd(q_nL, q_nL.lerp(p_nL, share), prior).sum())
    return total / len(h_MD)


def _within(index_n: Tensor, key: int, all_r: int) -> Tensor:
    """Indices into the set that the key belongs to, from indices into both sets, retain first."""
    return index_n - all_r if key % 2 else index_n


def _estimates(
    retain: _SetSums,
    forget: _SetSums,
    token: float,
    token_B: Tensor,
    *,
    prior: float,
    share: float,
    confidence: float,
) -> dict[str, Estimate]:
    one = torch.ones_like(token_B)
    pooled_B, tv_B, bayes_B = torch.zeros_like(one), torch.zeros_like(one), torch.zeros_like(one)
    parts = _divergence(
        retain.pooled_BV, retain.tokens_B, forget.pooled_BV, forget.tokens_B, share * one, prior * one
    )
    for rows, p_r, p_ru, divergence in parts:
        pooled_B[rows] = divergence
        tv_B[rows] = total_variation(p_r, p_ru)
        bayes_B[rows] = bayes_accuracy(p_r, p_ru, prior=prior)
    p_r_V = retain.pooled_V / len(retain.item_N)
    p_ru_V = p_r_V.lerp(forget.pooled_V / len(forget.item_N), share)
    items = (retain.weight_BI.shape[1], forget.weight_BI.shape[1])
    most, chance = prior_entropy(prior), max(prior, 1 - prior)

    def estimate(value: float, resampled_B: Tensor, low: float, high: float) -> Estimate:
        return _basic(min(max(value, low), high), resampled_B.cpu(), confidence, items, low, high)

    pooled = estimate(float(generalised_jsd(p_r_V, p_ru_V, prior)), pooled_B, 0.0, most)

    def bound(information: float | None) -> float | None:
        return None if information is None else fano_accuracy_bound(information, prior=prior)

    return {
        "marginal/pooled": pooled,
        "marginal/token": estimate(token, token_B, 0.0, most),
        # the bound is monotone in the information, so its interval is the image of that
        "marginal/fano_accuracy_bound": Estimate(
            value=fano_accuracy_bound(pooled.value, prior=prior),
            n=pooled.n,
            low=bound(pooled.low),
            high=bound(pooled.high),
        ),
        "marginal/bayes_accuracy": estimate(
            float(bayes_accuracy(p_r_V, p_ru_V, prior=prior)), bayes_B, chance, 1.0
        ),
        "marginal/tv": estimate(float(total_variation(p_r_V, p_ru_V)), tv_B, 0.0, 1.0),
    }
