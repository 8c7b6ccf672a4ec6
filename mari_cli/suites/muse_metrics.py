"""The metrics of MUSE (Shi et al. 2024), as results name them."""

from collections.abc import Iterator
from dataclasses import replace

from mari_cli.metrics.aggregation import Column, mean_of
from mari_cli.metrics.generation import NO_WORDS
from mari_cli.metrics.membership import MIN_K, membership_metrics
from mari_cli.metrics.metric import Direction, Metric, Role

SUITE = "muse"
PRIVACY = ("privacy_forget", "privacy_holdout")
"""The two sets that membership inference separates."""
_SOURCE = "Shi et al. 2024 (MUSE)"
_ROUGE: tuple[tuple[str, str, Direction, str, str, str], ...] = (
    ("verbatim_forget", "verbatim memorization", "gold", "the continuation of passages to be forgotten",
     "Forget passages: continued as they are written (ROUGE-L F1)", "verbatim memorization"),
    ("knowledge_forget", "knowledge, forget", "gold", "answers to questions after the forget set",
     "Questions about the forget data: answered (ROUGE-L F1)", "knowledge of it"),
    ("knowledge_retain", "knowledge, retain", "up", "answers to questions after the retain set",
     "Questions about the retain data: answered (ROUGE-L F1)", ""),
)  # fmt: skip
"""Set, label, direction, what is scored, the line of a report, the name inside a sentence."""


def _of_rouge() -> Iterator[Metric]:
    for place, (name, label, direction, what, says, short) in enumerate(_ROUGE):
        role: Role = "forgotten" if direction == "gold" else "kept"
        yield Metric(
            name=f"{SUITE}/{name}",
            label=f"MUSE {label}",
            direction=direction,
            description=f"mean over items of the ROUGE-L F1, without stemmer, of {what}",
            source=f"{_SOURCE}, there in percent; rouge-score",
            degenerate=NO_WORDS,
            aggregate=mean_of(Column("rouge_l_f1", "ROUGE-L", leads=True)).on(name, suite=SUITE),
            role=role,
            headline=300 + place,
            says=says,
            short=short,
        )


def _of_privacy() -> Iterator[Metric]:
    for metric in membership_metrics(SUITE, PRIVACY, suite=SUITE, words="MUSE "):
        if metric.name == f"{SUITE}/{MIN_K}_auc":
            metric = replace(
                metric,
                description="membership inference by min-k (40 %), passages to be forgotten against unseen "
                "ones: 1 = they look trained on. MUSE has 1 - AUC",
                source=_SOURCE,
                degenerate="0.5 when all scores tie",
                role="forgotten",
                headline=310,
                says="Telling forget passages from unseen ones by min-k (AUC, 0.5 is guessing)",
                short="detectability",
            )
        elif metric.name == f"{SUITE}/privleak":
            metric = replace(
                metric,
                description="how far 1 - AUC of MUSE min-k is from gold's, relative to it: negative = looks "
                "trained on, 0 = as gold, positive = over-forgotten",
                role="forgotten",
                headline=320,
                says="Privacy leak against gold, % (0 is as gold)",
                short="privacy leak",
            )
        yield metric


KNOWLEDGE = tuple(name for name, *_ in _ROUGE if name.startswith("knowledge_"))
ROUGE = list(_of_rouge())
METRICS = [*ROUGE, *_of_privacy()]
