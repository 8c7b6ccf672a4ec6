"""The metrics of RWKU (Jin et al. 2024), as results name them."""

from math import inf

from mari_cli.metrics.aggregation import Column, mean_of
from mari_cli.metrics.generation import NO_WORDS
from mari_cli.metrics.likelihood import ANSWER_NLL
from mari_cli.metrics.metric import Direction, Metric, Role
from mari_cli.metrics.sets import NO_TOKENS

SUITE = "rwku"
_PROBES: tuple[tuple[str, str, str, Role | None], ...] = (
    ("forget_level1", "forget, blanks", "blanks about the person to be forgotten", "forgotten"),
    ("forget_level2", "forget, questions", "questions about the person to be forgotten", "forgotten"),
    ("forget_level3", "forget, adversarial", "adversarial questions about the person to be forgotten",
     "forgotten"),
    ("neighbor_level1", "neighbours, blanks", "blanks about what is related to that person", "kept"),
    ("neighbor_level2", "neighbours, questions", "questions about what is related to that person", "kept"),
)  # fmt: skip
"""Set, label, what is asked, role."""
PROBES = tuple(name for name, *_ in _PROBES)
_PASSAGES: tuple[tuple[str, Direction, str], ...] = (
    ("forget", "gold", "about the person to be forgotten"),
    ("retain", "down", "about others"),
)

METRICS = [
    *(
        Metric(
            name=f"{SUITE}/{name}",
            label=f"RWKU {label}",
            direction="up" if role == "kept" else "gold",
            description=f"mean over items of the ROUGE-L recall, without stemmer, of answers to {what}",
            source="Jin et al. 2024 (RWKU); rouge-score",
            degenerate=NO_WORDS,
            aggregate=mean_of(Column("rouge_l_recall", "ROUGE-L", leads=True)).on(name, suite=SUITE),
            role=role,
            headline=400 + place,
        )
        for place, (name, label, what, role) in enumerate(_PROBES)
    ),
    *(
        Metric(
            name=f"{SUITE}/mia_{side}_nll",
            label=f"RWKU {side} passages' NLL",
            unit="nats/token",
            direction=direction,
            high=inf,
            description=f"mean over passages of the mean token loss, {what}",
            source="Jin et al. 2024 (RWKU)",
            degenerate=NO_TOKENS,
            aggregate=mean_of(ANSWER_NLL).on(f"mia_{side}", suite=SUITE),
            headline=410 + place,
            views=frozenset({"terminal"}),
        )
        for place, (side, direction, what) in enumerate(_PASSAGES)
    ),
]
