"""The likelihood of an answer under the model.

Shapes: T = tokens of one answer, N = answers. Losses are -log p of the true token given the true tokens
before it, in nats.
"""

from math import exp, inf
from typing import TYPE_CHECKING

from mari_cli.metrics.aggregation import Aggregation, Column, exp_ratio, mean_of
from mari_cli.metrics.metric import HEADLINE, Metric
from mari_cli.metrics.sets import NO_TOKENS, on_sets

if TYPE_CHECKING:  # a table of metrics needs no torch
    from torch import Tensor

LARGEST_EXPONENT = 709.0
"""exp of a larger number overflows float64."""


def exp_or_inf(mean_loss: float) -> float:
    """exp(mean loss), or infinity where float64 overflows."""
    return exp(mean_loss) if mean_loss < LARGEST_EXPONENT else inf


def _mean(loss_T: "Tensor") -> float:
    if loss_T.dim() != 1 or len(loss_T) == 0:
        raise ValueError(f"expected the losses of at least one token as a vector, got {loss_T.shape}")
    return loss_T.double().mean().item()


def answer_nll(loss_T: "Tensor") -> float:
    """Mean token loss of one answer, nats per token, >= 0."""
    return _mean(loss_T)


ANSWER_NLL = Column("answer_nll", "loss", leads=True, score=lambda answer: answer_nll(-answer.log_p_T))


def answer_probability(loss_T: "Tensor") -> float:
    """exp(-mean token loss) of one answer, in [0, 1]: the geometric mean of its tokens' probabilities."""
    return exp(-_mean(loss_T))


TOKENS = Column("tokens", score=lambda answer: len(answer.labels_T))
_LOSS_SUM = Column(
    "loss_sum",
    score=lambda answer: -answer.log_p_T.double().sum().item(),
    made_of=lambda item: item.values["answer_nll"] * item.values["tokens"],
)

METRICS = [
    *on_sets(
        Metric(
            name="answer_nll",
            label="answer NLL",
            unit="nats/token",
            direction="down",
            high=inf,
            description="mean over items of the mean token loss of the answer",
            source="TOFU, Maini et al. 2024",
            degenerate=NO_TOKENS,
            aggregate=mean_of(ANSWER_NLL),
        ),
        forget={
            "role": "forgotten",
            "distance_term": 1,
            "headline": 90,
            "views": HEADLINE | {"followed"},
            "says": "Loss on the forget data, nats a token",
            "short": "loss",
            "above_gold": "Worse on these texts than a model that has never seen them, which is no merit.",
        },
        holdout={"headline": 100, "views": HEADLINE | {"followed"}},
    ),
    *on_sets(
        Metric(
            name="answer_probability",
            label="answer probability",
            unit="probability",
            description="mean over items of exp(-mean token loss of the answer)",
            source="TOFU, Maini et al. 2024",
            degenerate=NO_TOKENS,
            aggregate=mean_of(
                Column("answer_probability", score=lambda answer: answer_probability(-answer.log_p_T))
            ),
        )
    ),
    *on_sets(
        Metric(
            name="perplexity",
            label="perplexity",
            unit="1",
            direction="down",
            low=1.0,
            high=inf,
            description="exp of the mean loss over all answer tokens of the set",
            source="standard, token-weighted",
            degenerate="infinite past a mean loss of 709 nats; a set without tokens is refused",
            aggregate=Aggregation(exp_ratio, (_LOSS_SUM, TOKENS)),
        )
    ),
]
