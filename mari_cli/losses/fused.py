"""What is done to every logit of a chunk: on CUDA one compiled kernel for each function, elsewhere strips.

Each function is written once, for any number of rows. Compiled it takes the whole chunk, and keeps what lies
between reading and writing in registers; eagerly every operation makes a temporary, so it gets a few rows at
a time. A trailing underscore: the first argument is overwritten, and nothing else as large as it is made.

Shapes: c positions of a chunk, V vocabulary.
"""

import subprocess
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

STRIP = 16
"""Rows at a time where temporaries are to be spared."""
MOST_VARIANTS = 64
"""Of one function, which is compiled anew for other types, vocabularies and missing arguments."""

Body = Callable[..., tuple[Tensor, ...]]
"""Of tensors that all have the rows of a chunk, or are None; its results have rows too."""


def over_chunk(body: Body, rows: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
    """``body`` for all rows: compiled if the device has what that takes, by strips if not."""
    kernel = by_strips if obstacle(rows.device.type) else compiled
    return kernel(body)(rows, *more)


def by_strips(body: Body) -> Body:
    """``body`` for a few rows after another, its results concatenated."""

    def in_strips(rows: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        parts = [
            body(*(x if x is None else x[first : first + STRIP] for x in (rows, *more)))
            for first in range(0, max(1, len(rows)), STRIP)
        ]
        return tuple(torch.cat(results) for results in zip(*parts, strict=True))

    return in_strips


@cache
def compiled(body: Body) -> Body:
    """``body`` for all rows in one piece."""
    from torch import _dynamo  # takes a second to load, and on a CPU nobody asks for it

    kernel: Body = torch.compile(body, fullgraph=True, recompile_limit=MOST_VARIANTS)  # type: ignore[call-overload]

    def whole(rows: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        for x in (rows, *more):
            if x is not None:  # of any number of rows, but of one V: what is known of it makes loads wide
                _dynamo.maybe_mark_dynamic(x, 0)
        return kernel(rows, *more)

    return whole


@cache
def obstacle(kind: str) -> str | None:
    """Why nothing is compiled for this ``kind`` of device; None: it is."""
    if kind != "cuda" or not torch.cuda.is_available():
        return "only compiled on CUDA"
    from torch._dynamo import config

    if config.disable:
        return "`TORCH_COMPILE_DISABLE` is set"
    try:  # tried, because it takes a C compiler and Python's headers, which many an image is without
        compiled(lambda x: (x + 1,))(torch.zeros(2, device=kind))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def described(kind: str) -> str:
    """For the log."""
    without = obstacle(kind)
    return "compiled" if without is None else f"eager ({without})"


# -- the functions -------------------------------------------------------------------------------------------


def label_log_p(z_cV: Tensor, labels_c: Tensor) -> tuple[Tensor]:
    """log p(label) [c]."""
    return (_at(z_cV, labels_c) - z_cV.logsumexp(-1),)


def predict_(z_cV: Tensor, labels_c: Tensor) -> tuple[Tensor]:
    """Logits become probabilities. log p(label) [c]."""
    normaliser_c = z_cV.logsumexp(-1)
    label_c = _at(z_cV, labels_c) - normaliser_c
    z_cV.sub_(normaliser_c.unsqueeze(-1)).exp_()
    return (label_c,)


def predict_beside_(z_cV: Tensor, labels_c: Tensor, reference_cV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `predict_`, beside the reference's logits. log p(label), KL(q ‖ p) and log Σ exp reference [c].

    The divergence is of the difference of the logits, for the sake of digits: at the reference it is 0.
    """
    normaliser_c, q_normaliser_c = z_cV.logsumexp(-1), reference_cV.logsumexp(-1)
    label_c = _at(z_cV, labels_c) - normaliser_c
    difference_cV = (reference_cV - z_cV).mul_((reference_cV - q_normaliser_c.unsqueeze(-1)).exp_())
    divergence_c = difference_cV.sum(-1) - q_normaliser_c + normaliser_c
    z_cV.sub_(normaliser_c.unsqueeze(-1)).exp_()
    return label_c, divergence_c, q_normaliser_c


def reverse_kl(z_cV: Tensor, reference_cV: Tensor) -> tuple[Tensor]:
    """KL(p ‖ q) [c], q the reference's."""
    normaliser_c, q_normaliser_c = z_cV.logsumexp(-1), reference_cV.logsumexp(-1)
    difference_cV = (z_cV - reference_cV).mul_((z_cV - normaliser_c.unsqueeze(-1)).exp_())
    return (difference_cV.sum(-1) - normaliser_c + q_normaliser_c,)


def anchor(z_cV: Tensor, reference_cV: Tensor) -> tuple[Tensor]:
    """Huber(log p - log q) averaged over the vocabulary [c], q the reference's."""
    apart_cV = z_cV - z_cV.logsumexp(-1, keepdim=True)
    apart_cV -= reference_cV - reference_cV.logsumexp(-1, keepdim=True)
    near_cV = apart_cV.clamp(-1, 1)
    return ((apart_cV - near_cV / 2).mul_(near_cV).mean(-1),)


def summed_predictions(z_cV: Tensor) -> tuple[Tensor]:
    """Probabilities summed over all rows that it gets, as one row [1, V]."""
    return (z_cV.softmax(-1).sum(0, keepdim=True),)


def gradient_(
    p_cV: Tensor,
    factor_c: Tensor,
    gamma_cV: Tensor | None,
    reference_cV: Tensor | None,
    q_normaliser_c: Tensor | None,
    forward_c: Tensor | None,
    reverse_c: Tensor | None,
    anchor_c: Tensor | None,
) -> tuple[()]:
    """p becomes p ∘ (factor + γ - ⟨γ, p⟩ + reverse · log(p/q)) - forward · q + anchor · (h - p Σ h), h the
    slope of `anchor`. What is None is left out."""
    added_cV: Tensor | None = None
    if reverse_c is not None or anchor_c is not None:
        assert reference_cV is not None
        assert q_normaliser_c is not None
        # where p has vanished it counts as the smallest there is
        log_p_cV = p_cV.clamp_min(torch.finfo(p_cV.dtype).tiny).log()
        log_ratio_cV = log_p_cV - (reference_cV - q_normaliser_c.unsqueeze(-1))
        if reverse_c is not None:
            added_cV = p_cV * log_ratio_cV * reverse_c.unsqueeze(-1)
        if anchor_c is not None:
            h_cV = log_ratio_cV.clamp(-1, 1) * (anchor_c / p_cV.shape[-1]).unsqueeze(-1)
            added_cV = h_cV if added_cV is None else added_cV + h_cV
            factor_c = factor_c - h_cV.sum(-1)
    if gamma_cV is None:
        p_cV.mul_(factor_c.unsqueeze(-1))
    else:
        less_c = (p_cV * gamma_cV).sum(-1) - factor_c
        p_cV.mul_(gamma_cV - less_c.unsqueeze(-1))
    if forward_c is not None:
        assert reference_cV is not None
        assert q_normaliser_c is not None
        q_cV = (reference_cV - q_normaliser_c.unsqueeze(-1)).exp_()
        p_cV.addcmul_(q_cV, forward_c.unsqueeze(-1), value=-1)
    if added_cV is not None:
        p_cV.add_(added_cV)
    return ()


def _at(z_cV: Tensor, labels_c: Tensor) -> Tensor:
    return z_cV.gather(-1, labels_c.unsqueeze(-1)).squeeze(-1)
