"""Readings of the head over a whole step, and their gradient, without ever holding the step's logits.

An objective is a function of its readings: the log-probabilities of labels; the divergence from the
reference, and the distance of all log-probabilities from it; the marginal information of pools of positions,
or of each position against what is supported there, with that of the observed token. Given the objective's
gradient at the readings, one sweep over chunks of positions computes the readings and carries the gradient
through the head (closed forms, below); where a pool does not fit a chunk it is averaged in a sweep of its own
before.

With p = softmax(z), at the logits z of one position:

    reading           gradient at z
    log p[label]      onehot(label) - p
    KL(q ‖ p)         p - q
    KL(p ‖ q)         p ∘ (γ - ⟨γ, p⟩),  γ = log p - log q
    anchor            h - p Σ h,  h = clip(log p - log q, -1, 1) / V
    I(P), P = mean p  p ∘ (γ - ⟨γ, p⟩) / count,  γ = ∂I/∂P
    D(q, p)           s - p Σ s,  s = p ∘ ∂D/∂p (losses/divergences/)
    Huber(log p/q[y]) clip(log p/q[y], -1, 1) (onehot(y) - p)

Shapes: N, M positions, c positions of a chunk, D hidden size, V vocabulary, C pools, K stored tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mari_cli.lm_head import Head, HeadGradient
from mari_cli.losses import fused, marginal
from mari_cli.losses.divergences import FromSupport
from mari_cli.losses.fused import over_chunk
from mari_cli.losses.marginal import Pools
from mari_cli.losses.pointwise import pointwise
from mari_cli.transfer import sent


@dataclass(frozen=True)
class Supported:
    """What the retain data supports at each forget position: q of some tokens, the position's own label first
    and none twice; what is missing to 1 lies on all others together, which are one outcome."""

    ids_MK: Tensor
    probability_MK: Tensor
    divergence: FromSupport


@dataclass(frozen=True)
class Rows:
    """The supervised positions of one role."""

    h_ND: Tensor
    labels_N: Tensor
    reference_ND: Tensor | None = None
    """The reference's hidden states, where a divergence from it is asked for."""
    supported: Supported | None = None


@dataclass(frozen=True)
class Readings:
    """Of each role what was read, [N]; and I of each pool [C], or D of each supported position [M].

    The gradient of an objective at its readings has the same form.
    """

    log_p: dict[str, Tensor] = field(default_factory=dict)
    kl: dict[str, Tensor] = field(default_factory=dict)
    reverse_kl: dict[str, Tensor] = field(default_factory=dict)
    """KL(p ‖ q), q the reference's."""
    anchor: dict[str, Tensor] = field(default_factory=dict)
    """Huber(log p - log q) averaged over the vocabulary, q the reference's."""
    information: Tensor | None = None
    pointwise: Tensor | None = None
    """Huber(log p(y) - log q(y)) of each supported position [M]."""


@dataclass(frozen=True)
class Gradients:
    h: dict[str, Tensor]
    """By role, [N, D] in the dtype of its hidden states."""
    head: HeadGradient


Index = slice | Tensor
"""Some positions of a role: a stretch of them, or their numbers."""


@torch.no_grad()
def log_probabilities(head: Head, h_ND: Tensor, labels_N: Tensor, *, chunk: int) -> Tensor:
    """log p(label) of each position [N]."""
    operand = HeadGradient(head)
    parts = zip(h_ND.split(chunk), labels_N.split(chunk), strict=True)
    return torch.cat(
        [over_chunk(fused.label_log_p, operand.logits(h_cD), labels_c)[0] for h_cD, labels_c in parts]
    )


@torch.no_grad()
def sweep(
    head: Head,
    rows: Mapping[str, Rows],
    weights: Readings,
    *,
    chunk: int,
    reference: Head | None = None,
    pools: Pools | None = None,
    through_retain: bool = False,
    reduce: Callable[[Tensor], Tensor] | None = None,
    keep_logits: bool = False,
) -> tuple[Readings, Gradients]:
    """The readings that ``weights`` has weights for, and the gradients of Σ weight · reading.

    ``chunk``: positions whose logits exist at one time. ``reference``: the head of `Rows.reference_ND`.
    ``pools`` are over the roles `retain` and `forget`; ``through_retain``: whether the gradient of their
    information runs through the retain side too. ``reduce`` sums a tensor over the processes that share the
    pools. ``keep_logits``: those of a pool that does not fit a chunk are held, chunk by chunk, from the sweep
    that averages it to the one that carries its gradient, instead of being made twice.
    """
    on_reference = None if reference is None else HeadGradient(reference)
    sweeper = _Sweep(HeadGradient(head), on_reference, rows, weights)
    left: dict[str, Tensor] = {role: torch.arange(len(of_role.h_ND)) for role, of_role in rows.items()}
    if pools is not None:
        for role, name_N in pools.names().items():
            left[role] = (name_N < 0).nonzero().squeeze(-1)
        for block in _blocks(pools, chunk):
            if len(block) <= chunk and reduce is None:
                sweeper.pool_at_once(block, pools, through_retain=through_retain)
            else:
                sweeper.pool_in_two_passes(
                    block,
                    pools,
                    through_retain=through_retain,
                    chunk=chunk,
                    reduce=reduce,
                    keep=keep_logits,
                )
    for role, index in left.items():
        for index_c in _slices(index, chunk, rows[role].h_ND.device):
            sweeper.close(sweeper.open(role, index_c))
    return sweeper.readings, Gradients(sweeper.gradient, sweeper.head)


def _slices(index: Tensor, chunk: int, device: torch.device) -> Iterator[Index]:
    """``index``, sorted within what belongs together, in pieces of at most ``chunk``."""
    for index_c in index.split(chunk):
        if len(index_c) == 0:
            continue
        first, last = int(index_c[0]), int(index_c[-1])
        if last - first + 1 == len(index_c) and bool((index_c.diff() == 1).all()):
            yield slice(first, last + 1)  # a view instead of a copy
        else:
            yield sent(index_c, device)


@dataclass(frozen=True)
class _Block:
    """The pools ``first`` to ``last`` (not included), and by role the positions in them, ordered by pool."""

    first: int
    last: int
    index: dict[str, Tensor]

    def __len__(self) -> int:
        return sum(len(index) for index in self.index.values())


def _blocks(pools: Pools, chunk: int) -> Iterator[_Block]:
    """As many whole pools as fit a chunk; a pool that is larger by itself."""
    names = pools.names()
    order = {role: name_N.argsort(stable=True)[int((name_N < 0).sum()) :] for role, name_N in names.items()}
    counts = {
        role: torch.bincount(name_N[name_N >= 0], minlength=len(pools)) for role, name_N in names.items()
    }
    ends = {role: [0, *count_C.cumsum(0).tolist()] for role, count_C in counts.items()}
    first, held = 0, 0
    for c in range(len(pools) + 1):
        size = chunk + 1 if c == len(pools) else sum(int(count_C[c]) for count_C in counts.values())
        if c > first and held + size > chunk:
            yield _Block(first, c, {role: order[role][ends[role][first] : ends[role][c]] for role in names})
            first, held = c, 0
        held += size


@dataclass
class _Slice:
    """Positions of one role while their probabilities are in memory."""

    role: str
    index: Index
    h_cD: Tensor
    labels_c: Tensor
    p_cV: Tensor
    log_p_c: Tensor
    """Of the labels."""
    slope_cV: Tensor | None
    reference_cV: Tensor | None
    """The reference's logits, and of each row log Σ exp."""
    q_normaliser_c: Tensor | None


class _Sweep:
    """What a sweep accumulates. A slice is opened, which reads it, and closed, which pushes its gradient."""

    def __init__(
        self, head: HeadGradient, reference: HeadGradient | None, rows: Mapping[str, Rows], weights: Readings
    ) -> None:
        self.head, self.reference, self.rows, self.weights = head, reference, rows, weights
        self.gradient = {role: torch.zeros_like(of_role.h_ND) for role, of_role in rows.items()}

        def zeros(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {role: torch.zeros_like(weight_N) for role, weight_N in weights.items()}

        self.readings = Readings(
            zeros(weights.log_p),
            zeros(weights.kl),
            zeros(weights.reverse_kl),
            zeros(weights.anchor),
            None if weights.information is None else torch.zeros_like(weights.information),
            None if weights.pointwise is None else torch.zeros_like(weights.pointwise),
        )

    def open(self, role: str, index: Index, made: Tensor | None = None) -> _Slice:
        """``made``: the logits [c, V], where they are there already; used up."""
        rows = self.rows[role]
        h_cD, labels_c = rows.h_ND[index], rows.labels_N[index]
        z_cV = self.head.logits(h_cD) if made is None else made
        slope_cV, reference_cV, q_normaliser_c = self.head.slope(z_cV), None, None
        read = self.readings
        if role in read.kl or role in read.reverse_kl or role in read.anchor:
            assert self.reference is not None
            assert rows.reference_ND is not None
            reference_cV = self.reference.logits(rows.reference_ND[index])
            for of_role, kernel in ((read.reverse_kl, fused.reverse_kl), (read.anchor, fused.anchor)):
                if role in of_role:
                    (of_role[role][index],) = over_chunk(kernel, z_cV, reference_cV)
            log_p_c, kl_c, q_normaliser_c = over_chunk(fused.predict_beside_, z_cV, labels_c, reference_cV)
            if role in read.kl:
                read.kl[role][index] = kl_c
        else:
            (log_p_c,) = over_chunk(fused.predict_, z_cV, labels_c)
        if role in read.log_p:
            read.log_p[role][index] = log_p_c
        return _Slice(role, index, h_cD, labels_c, z_cV, log_p_c, slope_cV, reference_cV, q_normaliser_c)

    def close(self, part: _Slice, gamma_cV: Tensor | None = None) -> None:
        """Push the gradient of a slice; ``gamma_cV`` [c, V] or [1, V] is that of the loss at its p, used up.

        p ∘ (γ - ⟨γ, p⟩) + weight_kl (p - q) + weight_label (onehot - p), in one pass over p.
        """
        role, index, p_cV = part.role, part.index, part.p_cV
        factor_c = p_cV.new_zeros(len(p_cV))  # what multiplies p, apart from γ
        sparse: list[tuple[Tensor, Tensor]] = []  # tokens [c, K] and what is added at them
        if role in self.weights.kl:
            factor_c = factor_c + self.weights.kl[role][index]
        if role in self.weights.reverse_kl:
            factor_c = factor_c - self.weights.reverse_kl[role][index] * self.readings.reverse_kl[role][index]
        if role in self.weights.log_p:
            weight_c = self.weights.log_p[role][index]
            factor_c = factor_c - weight_c
            sparse.append((part.labels_c.unsqueeze(-1), weight_c.unsqueeze(-1)))
        supported = self.rows[role].supported
        if supported is not None:
            assert gamma_cV is None
            factor_u_c, ids_cK, added_cK = self._towards_support(part, supported)
            factor_c = factor_c + factor_u_c
            sparse.append((ids_cK, added_cK))
        over_chunk(
            fused.gradient_,
            p_cV,
            factor_c,
            None if gamma_cV is None else gamma_cV.expand_as(p_cV),
            part.reference_cV,
            part.q_normaliser_c,
            *(
                of_role[role][index] if role in of_role else None
                for of_role in (self.weights.kl, self.weights.reverse_kl, self.weights.anchor)
            ),
        )
        part.reference_cV = None  # not held while the head's gradient is made
        for ids_cK, added_cK in sparse:
            p_cV.scatter_add_(-1, ids_cK, added_cK.to(p_cV.dtype))
        self.gradient[role][index] = self.head.push(p_cV, part.h_cD, part.slope_cV)

    def _towards_support(self, part: _Slice, supported: Supported) -> tuple[Tensor, Tensor, Tensor]:
        """Read D against the supported distribution, over K tokens and the rest of them as one outcome, and
        the pointwise information of the label, which is the first of them.

        With the score s of these outcomes δ = p (s_rest/p_rest - Σ s), and s - p s_rest/p_rest more at the K.
        """
        assert self.weights.information is not None
        assert self.readings.information is not None
        p_cV, ids_cK = part.p_cV, supported.ids_MK[part.index].long()
        p_cK = p_cV.gather(-1, ids_cK)
        p_cV.scatter_(-1, ids_cK, 0.0)
        rest_c1 = p_cV.sum(-1, keepdim=True)  # 1 - Σ p_cK would lose the digits of a small rest
        p_cV.scatter_(-1, ids_cK, p_cK)
        tiny = torch.finfo(p_cK.dtype).tiny
        rest_c1 = rest_c1.clamp_min(tiny)
        label_c1 = part.log_p_c.to(p_cK).unsqueeze(-1)  # also where p has vanished
        log_p_cL = torch.cat([label_c1, p_cK[:, 1:].clamp_min(tiny).log(), rest_c1.log()], -1)
        log_q_cL = marginal.with_rest(supported.probability_MK[part.index].to(p_cK)).clamp_min(tiny).log()
        value_c, score_cL = supported.divergence(log_q_cL, log_p_cL)
        self.readings.information[part.index] = value_c
        score_cL = score_cL * self.weights.information[part.index].unsqueeze(-1)
        if self.weights.pointwise is not None:
            assert self.readings.pointwise is not None
            value_c, slope_c = pointwise(log_q_cL[:, 0], log_p_cL[:, 0])
            self.readings.pointwise[part.index] = value_c
            score_cL[:, 0] += slope_c * self.weights.pointwise[part.index]
        each_c1 = score_cL[:, -1:] / rest_c1
        return (
            (each_c1 - score_cL.sum(-1, keepdim=True)).squeeze(-1),
            ids_cK,
            (score_cL[:, :-1] - p_cK * each_c1),
        )

    def pool_at_once(self, block: _Block, pools: Pools, *, through_retain: bool) -> None:
        """Pools whose probabilities fit in memory together: opened once, averaged, closed."""
        parts: dict[str, _Slice] = {}
        mean: dict[str, Tensor] = {}
        share: dict[str, Tensor] = {}
        for role, index in block.index.items():
            device = self.rows[role].h_ND.device
            (at,) = _slices(index, len(index), device)
            parts[role] = self.open(role, at)
            name_c = pools.names()[role][index] - block.first
            count_c = pools.counts()[role][block.first : block.last][name_c]
            share_cC = torch.zeros(len(index), block.last - block.first, dtype=torch.float64)
            share_cC[torch.arange(len(index)), name_c] = 1 / count_c
            share[role] = sent(share_cC, device, parts[role].p_cV.dtype)
            mean[role] = share[role].T @ parts[role].p_cV
        gradient = self._read_pools(block, pools, mean)
        del mean
        self.close(parts.pop("forget"), share["forget"] @ gradient["forget"])
        gamma_cV = share["retain"] @ gradient["retain"] if through_retain else None
        self.close(parts.pop("retain"), gamma_cV)

    def pool_in_two_passes(
        self,
        block: _Block,
        pools: Pools,
        *,
        through_retain: bool,
        chunk: int,
        reduce: Callable[[Tensor], Tensor] | None,
        keep: bool,
    ) -> None:
        """One pool that does not fit: averaged in a first pass, its gradient carried back in a second, from
        logits that are kept or made again."""
        assert block.last == block.first + 1
        sums: list[Tensor] = []
        kept: list[Tensor] = []
        for role, index in block.index.items():
            h_ND = self.rows[role].h_ND
            sum_V = torch.zeros(len(self.head.operand_VD), dtype=torch.float64, device=h_ND.device)
            for at in _slices(index, chunk, h_ND.device):
                z_cV = self.head.logits(h_ND[at])
                (some_V,) = over_chunk(fused.summed_predictions, z_cV)
                sum_V += some_V.sum(0, dtype=torch.float64)
                if keep:
                    kept.append(z_cV)
                del z_cV  # or it would still be there when the next one is made
            sums.append(sum_V)
        sum_2V = torch.stack(sums)
        if reduce is not None:
            sum_2V = reduce(sum_2V)
        counts = {role: float(count_C[block.first]) for role, count_C in pools.counts().items()}
        mean = {role: (sum_V / counts[role])[None] for role, sum_V in zip(block.index, sum_2V, strict=True)}
        gradient = self._read_pools(block, pools, mean)
        wide = self.head.wide
        for role, index in block.index.items():
            pooled = role == "forget" or through_retain
            gamma_1V = (gradient[role] / counts[role]).to(wide) if pooled else None
            for at in _slices(index, chunk, self.rows[role].h_ND.device):
                self.close(self.open(role, at, kept.pop(0) if keep else None), gamma_1V)

    def _read_pools(self, block: _Block, pools: Pools, mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read I of the block's pools; the gradient of the loss at both sides' mean predictions [C, V]."""
        assert self.weights.information is not None
        assert self.readings.information is not None
        at = slice(block.first, block.last)
        device = mean["retain"].device
        prior_C, share_C = (sent(x_C[at], device) for x_C in (pools.prior_C, pools.share_C))
        information_C, retain_CV, forget_CV = marginal.information_and_gradient(
            mean["retain"], mean["forget"], prior_C, share_C
        )
        self.readings.information[at] = information_C.to(self.readings.information.dtype)
        weight_C1 = self.weights.information[at].unsqueeze(-1)
        return {"retain": retain_CV.mul_(weight_C1), "forget": forget_CV.mul_(weight_C1)}
