"""The functions of every logit of a chunk. On CUDA each one is a compiled kernel, elsewhere it runs by
strips.

Each function takes any number of rows. Compiled, it takes the whole chunk and keeps intermediate values in
registers. Eagerly, every operation makes a temporary tensor, so a function gets a few rows at a time. A
trailing underscore: the function overwrites its first argument and allocates nothing else of that size.

Shapes: c positions of a chunk, V vocabulary.
"""

import subprocess
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

STRIP = 16
"""Rows at a time in eager mode, which bounds the memory of temporary tensors."""
MOST_VARIANTS = 64
"""Most variants of one function: another dtype, vocabulary or absent argument compiles a new one."""

Body = Callable[..., tuple[Tensor, ...]]
"""A function of tensors that all have the rows of a chunk, or are None; its results have these rows too."""


def over_chunk(body: Body, rows: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
    """``body`` for all rows: compiled if the device and its software allow it, by strips if not."""
    kernel = by_strips if obstacle(rows.device.type) else compiled
    return kernel(body)(rows, *more)


def by_strips(body: Body) -> Body:
    """``body`` for `STRIP` rows at a time, its results concatenated."""

    def in_strips(rows: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        parts = [
            body(*(x if x is None else x[first : first + STRIP] for x in (rows, *more)))
            for first in range(0, max(1, len(rows)), STRIP)
        ]
        return tuple(torch.cat(results) for results in zip(*parts, strict=True))

    return in_strips


@cache
def compiled(body: Body) -> Body:
    """``body`` compiled, for all rows in one call."""
    from torch import _dynamo  # takes a second to load, and a CPU does not need it

    kernel: Body = torch.compile(body, fullgraph=True, recompile_limit=MOST_VARIANTS)  # type: ignore[call-overload]

    def whole(rows: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        for x in (rows, *more):
            if x is not None:  # rows vary, V is fixed: a known V makes the kernel's loads wide
                _dynamo.maybe_mark_dynamic(x, 0)
        return kernel(rows, *more)

    return whole


@cache
def obstacle(kind: str) -> str | None:
    """The reason why nothing is compiled for this ``kind`` of device, or None."""
    if kind != "cuda" or not torch.cuda.is_available():
        return "only compiled on CUDA"
    from torch._dynamo import config

    if config.disable:
        return "`TORCH_COMPILE_DISABLE` is set"
    try:  # compiling needs a C compiler and Python's headers, which many images lack
        compiled(lambda x: (x + 1,))(torch.zeros(2, device=kind))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def described(kind: str) -> str:
    """How the functions run, for the log."""
    without = obstacle(kind)
    return "compiled" if without is None else f"eager ({without})"


# -- the functions -------------------------------------------------------------------------------------------


class Logits(NamedTuple):
    """The logits of a chunk and the log Σ exp of each row; the reference's too where a reading needs them."""

    z_cV: Tensor
    normaliser_c: Tensor
    labels_c: Tensor
    reference_cV: Tensor | None
    q_normaliser_c: Tensor | None


class Predictions(NamedTuple):
    """The probabilities of a chunk; and the reference's logits with the log Σ exp of each row."""

    p_cV: Tensor
    labels_c: Tensor
    reference_cV: Tensor | None
    q_normaliser_c: Tensor | None


class Slope(NamedTuple):
    """A gradient at the logits of a chunk: factor · p + added - weight · towards. None: that part is 0."""

    factor_c: Tensor | None = None
    added_cV: Tensor | None = None
    towards_cV: Tensor | None = None
    """A distribution that the predictions are pulled towards."""


class LogitReading(Protocol):
    """The functions of a reading (losses/readings/) that a kernel calls."""

    def value(self, at: Logits) -> Tensor: ...

    def slope(self, at: Predictions, weight_c: Tensor, value_c: Tensor) -> Slope: ...


@cache
def read(readings: tuple[LogitReading, ...]) -> Body:
    """A kernel: the value of each reading [c], from the logits."""

    def kernel(z_cV: Tensor, labels_c: Tensor, reference_cV: Tensor | None) -> tuple[Tensor, ...]:
        at = _logits(z_cV, labels_c, reference_cV)
        return tuple(reading.value(at) for reading in readings)

    return kernel


@cache
def predict_(readings: tuple[LogitReading, ...]) -> Body:
    """A kernel that overwrites logits with probabilities. Returns log p(label), the value of each reading
    and, where there is a reference, its log Σ exp, each [c]."""

    def kernel(z_cV: Tensor, labels_c: Tensor, reference_cV: Tensor | None) -> tuple[Tensor, ...]:
        at = _logits(z_cV, labels_c, reference_cV)
        label_c = at_label(z_cV, labels_c) - at.normaliser_c
        values = [reading.value(at) for reading in readings]
        z_cV.sub_(at.normaliser_c.unsqueeze(-1)).exp_()
        return (label_c, *values, *(() if at.q_normaliser_c is None else (at.q_normaliser_c,)))

    return kernel


@cache
def gradient_(readings: tuple[LogitReading, ...]) -> Body:
    """A kernel that overwrites p with p ∘ (factor + γ - ⟨γ, p⟩) plus the slope of each reading."""

    def kernel(
        p_cV: Tensor,
        factor_c: Tensor,
        gamma_cV: Tensor | None,
        labels_c: Tensor,
        reference_cV: Tensor | None,
        q_normaliser_c: Tensor | None,
        *weights_and_values: Tensor,
    ) -> tuple[()]:
        at = Predictions(p_cV, labels_c, reference_cV, q_normaliser_c)
        added_cV: Tensor | None = None
        towards: list[tuple[Tensor, Tensor]] = []
        for k, reading in enumerate(readings):
            weight_c, value_c = weights_and_values[2 * k : 2 * k + 2]
            slope = reading.slope(at, weight_c, value_c)
            if slope.factor_c is not None:
                factor_c = factor_c + slope.factor_c
            if slope.added_cV is not None:
                added_cV = slope.added_cV if added_cV is None else added_cV + slope.added_cV
            if slope.towards_cV is not None:
                towards.append((slope.towards_cV, weight_c))
        if gamma_cV is None:
            p_cV.mul_(factor_c.unsqueeze(-1))
        else:
            less_c = (p_cV * gamma_cV).sum(-1) - factor_c
            p_cV.mul_(gamma_cV - less_c.unsqueeze(-1))
        for q_cV, weight_c in towards:
            p_cV.addcmul_(q_cV, weight_c.unsqueeze(-1), value=-1)
        if added_cV is not None:
            p_cV.add_(added_cV)
        return ()

    return kernel


def label_log_p(z_cV: Tensor, labels_c: Tensor) -> tuple[Tensor]:
    """log p(label) of each row [c]."""
    return (at_label(z_cV, labels_c) - z_cV.logsumexp(-1),)


def summed_predictions(z_cV: Tensor) -> tuple[Tensor]:
    """The sum of the probabilities over all rows, as one row [1, V]."""
    return (z_cV.softmax(-1).sum(0, keepdim=True),)


def at_label(x_cV: Tensor, labels_c: Tensor) -> Tensor:
    """The entry of each row at its label [c]."""
    return x_cV.gather(-1, labels_c.unsqueeze(-1)).squeeze(-1)


def is_label(x_cV: Tensor, labels_c: Tensor) -> Tensor:
    """Whether an entry is that of its row's label [c, V]."""
    return torch.arange(x_cV.shape[-1], device=x_cV.device) == labels_c.unsqueeze(-1)


def _logits(z_cV: Tensor, labels_c: Tensor, reference_cV: Tensor | None) -> Logits:
    q_normaliser_c = None if reference_cV is None else reference_cV.logsumexp(-1)
    return Logits(z_cV, z_cV.logsumexp(-1), labels_c, reference_cV, q_normaliser_c)
