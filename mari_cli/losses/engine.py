"""The head pass: readings of the head over a whole step and their gradient, without the logits of all
positions in memory at once.

An objective is a function of its readings (losses/readings/). Given the objective's gradient at the readings,
one pass over chunks of positions computes the readings and carries the gradient through the head; a pool that
does not fit a chunk is averaged in a pass before. Gradients are closed forms. With p = softmax(z), the
gradient of a reading at the logits z of one position is a factor times p, plus an added part, minus a
distribution that p is pulled towards. The mean prediction P of a pool has p ∘ (γ - ⟨γ, p⟩) / count, with γ
the gradient at P.

Shapes: N, M positions, c positions of a chunk, D hidden size, V vocabulary, C pools, K stored tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mari_cli.lm_head import Head, HeadGradient
from mari_cli.losses import fused
from mari_cli.losses.fused import over_chunk
from mari_cli.losses.marginal import Pools
from mari_cli.losses.readings.reading import Chunk, OfLogits, OfPools, OfPredictions, OfStates, Reading
from mari_cli.losses.step import Rows, Step
from mari_cli.transfer import sent

Readings = Mapping[Reading, Tensor]
"""The value of each reading, in the shape that the reading gives. A reading without positions in a part of a
step is missing. The gradient of an objective at its readings has the same form."""


@dataclass(frozen=True)
class Gradients:
    h: dict[str, Tensor]
    """Gradient at the hidden states of each role [N, D], in their dtype."""
    head: HeadGradient
    layer: dict[str, Tensor] = field(default_factory=dict)
    """Gradient at the hidden states of the layer that the loss reads, by role."""


Index = slice | Tensor
"""Some positions of a role: a slice, or their indices."""


@torch.no_grad()
def log_probabilities(head: Head, h_ND: Tensor, labels_N: Tensor, *, chunk: int) -> Tensor:
    """log p(label) of each position [N]."""
    operand = HeadGradient(head)
    parts = zip(h_ND.split(chunk), labels_N.split(chunk), strict=True)
    return torch.cat(
        [over_chunk(fused.label_log_p, operand.logits(h_cD), labels_c)[0] for h_cD, labels_c in parts]
    )


@torch.no_grad()
def survey(
    head: Head, rows: Rows, readings: Sequence[OfLogits], *, chunk: int, reference: Head | None
) -> list[Tensor]:
    """The values of ``readings`` of one role, each [N], without a gradient."""
    operand = HeadGradient(head)
    beside = reference if any(reading.beside_reference for reading in readings) else None
    on_reference = None if beside is None else HeadGradient(beside)
    kernel, parts = fused.read(tuple(readings)), []
    for at in range(0, len(rows.h_ND), chunk):
        here = slice(at, at + chunk)
        reference_cV = None
        if on_reference is not None:
            assert rows.reference_ND is not None
            reference_cV = on_reference.logits(rows.reference_ND[here])
        parts.append(over_chunk(kernel, operand.logits(rows.h_ND[here]), rows.labels_N[here], reference_cV))
    return [torch.cat(values) for values in zip(*parts, strict=True)]


@torch.no_grad()
def head_pass(
    head: Head,
    rows: Mapping[str, Rows],
    step: Step,
    weights: Readings,
    *,
    chunk: int,
    reference: Head | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    keep_logits: bool = False,
) -> tuple[Readings, Gradients]:
    """The readings that have a weight in ``weights``, and the gradients of Σ weight · reading.

    ``chunk``: positions whose logits exist at one time. ``reference``: the head of `Rows.reference_ND`.
    ``reduce`` sums a tensor over the processes that share the pools of ``step``. ``keep_logits``: keep the
    logits of a pool that does not fit a chunk from the pass that averages it to the pass that carries its
    gradient, instead of computing them twice.
    """
    on_reference = None if reference is None else HeadGradient(reference)
    sweeper = _HeadPass(HeadGradient(head), on_reference, rows, step, weights)
    left: dict[str, Tensor] = {role: torch.arange(len(rows[role].h_ND)) for role in sweeper.roles}
    pooled, pools = sweeper.pooled, step.pools
    if pooled is not None and pools is not None:
        for role, name_N in pools.names().items():
            left[role] = (name_N < 0).nonzero().squeeze(-1)
        for block in _blocks(pools, chunk):
            if len(block) <= chunk and reduce is None:
                sweeper.pool_at_once(pooled, block, pools)
            else:
                sweeper.pool_in_two_passes(pooled, block, pools, chunk=chunk, reduce=reduce, keep=keep_logits)
    for role, index in left.items():
        for index_c in _slices(index, chunk, rows[role].h_ND.device):
            sweeper.close(sweeper.open(role, index_c))
    return sweeper.readings, Gradients(sweeper.gradient, sweeper.head, sweeper.of_layer)


def _slices(index: Tensor, chunk: int, device: torch.device) -> Iterator[Index]:
    """``index``, sorted within each pool, in pieces of at most ``chunk``."""
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
    """The pools ``first`` to ``last`` (excluded), and the positions in them by role, ordered by pool."""

    first: int
    last: int
    index: dict[str, Tensor]

    def __len__(self) -> int:
        return sum(len(index) for index in self.index.values())


def _blocks(pools: Pools, chunk: int) -> Iterator[_Block]:
    """Blocks of whole pools: as many as fit a chunk, or one pool that is larger than a chunk."""
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


class _HeadPass:
    """The state of a pass. `open` reads a chunk; `close` carries its gradient through the head."""

    def __init__(
        self,
        head: HeadGradient,
        reference: HeadGradient | None,
        rows: Mapping[str, Rows],
        step: Step,
        weights: Readings,
    ) -> None:
        self.head, self.reference, self.rows, self.step, self.weights = head, reference, rows, step, weights
        self.gradient = {role: torch.zeros_like(of_role.h_ND) for role, of_role in rows.items()}
        self.of_layer: dict[str, Tensor] = {}
        self.readings = {reading: torch.zeros_like(weight) for reading, weight in weights.items()}
        self.of_logits: dict[str, tuple[OfLogits, ...]] = dict.fromkeys(rows, ())
        self.of_predictions: dict[str, tuple[OfPredictions, ...]] = dict.fromkeys(rows, ())
        self.pooled: OfPools | None = None
        for reading, weight in weights.items():
            match reading:
                case OfLogits():
                    self.of_logits[reading.role] += (reading,)
                case OfPredictions():
                    self.of_predictions[reading.role] += (reading,)
                case OfPools():
                    self.pooled = reading
                case OfStates():
                    of_role = rows[reading.role]
                    assert of_role.layer_ND is not None
                    self.readings[reading] = reading.value(of_role)
                    self.of_layer[reading.role] = weight.to(of_role.layer_ND.dtype)

    @property
    def roles(self) -> list[str]:
        """The roles whose logits are read."""
        pooled = () if self.pooled is None else self.pooled.roles
        return [
            role for role in self.rows if self.of_logits[role] or self.of_predictions[role] or role in pooled
        ]

    def open(self, role: str, index: Index, made: Tensor | None = None) -> Chunk:
        """Read a chunk. ``made``: its logits [c, V] if they exist already; they are overwritten."""
        rows, readings = self.rows[role], self.of_logits[role]
        h_cD, labels_c = rows.h_ND[index], rows.labels_N[index]
        z_cV = self.head.logits(h_cD) if made is None else made
        slope_cV, reference_cV, q_normaliser_c = self.head.slope(z_cV), None, None
        if any(reading.beside_reference for reading in readings):
            assert self.reference is not None
            assert rows.reference_ND is not None
            reference_cV = self.reference.logits(rows.reference_ND[index])
        log_p_c, *values = over_chunk(fused.predict_(readings), z_cV, labels_c, reference_cV)
        if reference_cV is not None:
            q_normaliser_c = values.pop()
        for reading, value_c in zip(readings, values, strict=True):
            self.readings[reading][index] = value_c
        return Chunk(
            role, index, h_cD, labels_c, z_cV, log_p_c, values, slope_cV, reference_cV, q_normaliser_c
        )

    def close(self, part: Chunk, gamma_cV: Tensor | None = None) -> None:
        """Carry the gradient of a chunk through the head. ``gamma_cV`` [c, V] or [1, V]: the gradient of the
        loss at p; it is overwritten."""
        role, index, p_cV = part.role, part.index, part.p_cV
        factor_c = p_cV.new_zeros(len(p_cV))  # the factor of p, apart from γ
        sparse: list[tuple[Tensor, Tensor]] = []  # tokens [c, K] and the gradient to add there
        weights_and_values: list[Tensor] = []
        for reading, value_c in zip(self.of_logits[role], part.values, strict=True):
            weight_c = self.weights[reading][index]
            weights_and_values += [weight_c, value_c]
            at_tokens = reading.at_tokens(part.labels_c, weight_c)
            if at_tokens is not None:
                sparse.append(at_tokens)
        for closed in self.of_predictions[role]:
            push = closed.push(part, self.rows[role], self.step, self.weights[closed][..., index])
            self.readings[closed][..., index] = push.value
            factor_c = factor_c + push.factor_c
            sparse.append((push.ids_cK, push.added_cK))
        over_chunk(
            fused.gradient_(self.of_logits[role]),
            p_cV,
            factor_c,
            None if gamma_cV is None else gamma_cV.expand_as(p_cV),
            part.labels_c,
            part.reference_cV,
            part.q_normaliser_c,
            *weights_and_values,
        )
        part.reference_cV = None  # frees memory before the head's gradient is made
        for ids_cK, added_cK in sparse:
            p_cV.scatter_add_(-1, ids_cK, added_cK.to(p_cV.dtype))
        self.gradient[role][index] = self.head.push(p_cV, part.h_cD, part.slope_cV)

    def pool_at_once(self, pooled: OfPools, block: _Block, pools: Pools) -> None:
        """Pools whose probabilities fit in memory together are opened once, averaged and closed."""
        parts: dict[str, Chunk] = {}
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
        gradient = self._read_pools(pooled, block, pools, mean)
        del mean
        self.close(parts.pop("forget"), share["forget"] @ gradient["forget"])
        gamma_cV = share["retain"] @ gradient["retain"] if pooled.through_retain else None
        self.close(parts.pop("retain"), gamma_cV)

    def pool_in_two_passes(
        self,
        pooled: OfPools,
        block: _Block,
        pools: Pools,
        *,
        chunk: int,
        reduce: Callable[[Tensor], Tensor] | None,
        keep: bool,
    ) -> None:
        """One pool that does not fit a chunk: the first pass averages it, the second carries its gradient,
        from logits that were kept or are computed again."""
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
                del z_cV  # frees memory before the next logits are made
            sums.append(sum_V)
        sum_2V = torch.stack(sums)
        if reduce is not None:
            sum_2V = reduce(sum_2V)
        counts = {role: float(count_C[block.first]) for role, count_C in pools.counts().items()}
        mean = {role: (sum_V / counts[role])[None] for role, sum_V in zip(block.index, sum_2V, strict=True)}
        gradient = self._read_pools(pooled, block, pools, mean)
        wide = self.head.wide
        for role, index in block.index.items():
            through = role == "forget" or pooled.through_retain
            gamma_1V = (gradient[role] / counts[role]).to(wide) if through else None
            for at in _slices(index, chunk, self.rows[role].h_ND.device):
                self.close(self.open(role, at, kept.pop(0) if keep else None), gamma_1V)

    def _read_pools(
        self, pooled: OfPools, block: _Block, pools: Pools, mean: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Read the block's pools; returns the gradient of the loss at both sides' mean predictions [C, V]."""
        at = slice(block.first, block.last)
        device = mean["retain"].device
        prior_C, share_C = (sent(x_C[at], device) for x_C in (pools.prior_C, pools.share_C))
        value_C, gradient = pooled.of_means(mean, prior_C, share_C)
        self.readings[pooled][at] = value_C.to(self.readings[pooled].dtype)
        weight_C1 = self.weights[pooled][at].unsqueeze(-1)
        return {role: side_CV.mul_(weight_C1) for role, side_CV in gradient.items()}
