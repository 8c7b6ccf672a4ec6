"""Difficulty: how hard an answer is for somebody who knows the retain data alone.

The holdout says how unsure the model before step 1 is of answers that it never saw. The forget answers may be
easier or harder than the holdout's for every model. The difficulty x of an answer is its cross-entropy, in
nats a token, under a bigram model that is counted in the retain data:

    P(w | v) = (c(v w) + T(v) P(w)) / (c(v) + T(v)),      P(w) = (c(w) + T / V) / (N + T)

c are counts, T(v) the number of different tokens after v, T and N those of different and of all tokens, V the
vocabulary (I. Witten, T. Bell 1991, "The zero-frequency problem", method C). Least squares on the holdout
answers that the model before gets wrong give the slope b of their loss on x. Of a forget answer the expected
loss is then the holdout's mean plus b (x - x̄): the regression estimator of a mean, a control variate. What x
does not say of the loss is noise in b, the less the more answers there are. The share of right tokens goes
the same way. (Not from the paper.)

Shapes: S answers.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from scipy.stats import linregress
from torch import Tensor

from mari_cli.data.tokenize import Item

DEFINITION = 1
"""Part of every cache key: raise it when a change here changes what is computed."""
FEWEST = 30
"""Wrong answers of the holdout that a slope needs: of ten, chance alone makes one that moves q far."""


class Bigrams:
    """A bigram model of the answers of ``items`` over ``vocabulary`` tokens."""

    def __init__(self, items: Sequence[Item], vocabulary: int) -> None:
        self.single: Counter[int] = Counter()
        self.after: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self.vocabulary = vocabulary
        for item in items:
            for before, token in pairs(item):
                self.single[token] += 1
                self.after[before][token] += 1
        self.tokens = self.single.total()
        self.tokens_after = {before: after.total() for before, after in self.after.items()}

    def probability(self, before: int, token: int) -> float:
        """P(``token`` | ``before``)."""
        kinds = len(self.single)
        p = (self.single[token] + kinds / self.vocabulary) / (self.tokens + kinds)
        if (after := self.after.get(before)) is None:
            return p
        return (after[token] + len(after) * p) / (self.tokens_after[before] + len(after))

    def difficulties(self, items: Sequence[Item]) -> Tensor:
        """The cross-entropy of each answer [S], in nats a token, float64."""
        nll = [[-log(self.probability(*pair)) for pair in pairs(item)] for item in items]
        return torch.tensor([sum(of_item) / len(of_item) for of_item in nll], dtype=torch.float64)


def pairs(item: Item) -> list[tuple[int, int]]:
    """Each target of ``item`` with the token before it."""
    return list(zip(item.input_ids[item.supervised_from - 1 : -1], item.labels, strict=True))


@dataclass(frozen=True)
class Harder:
    """By how much more each forget answer is expected to cost than the holdout's mean."""

    loss_S: Tensor
    """In nats, float64."""
    right_S: Tensor
    """Share of right tokens, float64: below 0 where an answer is harder."""
    forget: float
    """Mean difficulty of the forget answers, in nats a token."""
    holdout: float
    """Mean difficulty of the holdout answers that the model before gets wrong."""
    slope: float
    """Nats of loss for each nat of difficulty, over those."""
    correlation: float
    """Of difficulty and loss, over those."""
    answers: int
    """How many those are."""


def harder(forget_S: Tensor, holdout_S: Tensor, nll_S: Tensor, right_S: Tensor) -> Harder | None:
    """What the difficulties ``forget_S`` and ``holdout_S`` say of the forget answers; None where the holdout
    has fewer than `FEWEST` wrong answers, or all of them are equally hard.

    ``nll_S`` and ``right_S``: losses and shares of right tokens of the model before on the holdout.
    """
    wrong_S = right_S < 1
    x = holdout_S[wrong_S]
    if len(x) < FEWEST or x.std() < 1e-6:
        return None
    of_loss, of_right = (linregress(x.numpy(), of[wrong_S].numpy()) for of in (nll_S, right_S))
    above_S = forget_S - x.mean()
    return Harder(
        of_loss.slope * above_S,
        of_right.slope * above_S,
        forget=float(forget_S.mean()),
        holdout=float(x.mean()),
        slope=float(of_loss.slope),
        correlation=float(of_loss.rvalue),
        answers=len(x),
    )
