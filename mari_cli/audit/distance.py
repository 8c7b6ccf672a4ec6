"""Distance: how far are the answers that two models give from each other's, and is gold nearer than before?

S. Cho et al., "Reference-Specific Unlearning Metrics Can Hide the Truth" (2025, arXiv:2510.12981), FADE:
answers are drawn from both models, and each is scored by both. `gap` is the sum of both directions, E_x~now
[log p_now(x) - log p_gold(x)] + E_x~gold [log p_gold(x) - log p_now(x)], in nats per token: Jeffreys'
divergence, 0 for equal models. It is above 0 for two golds of different seeds, too. `nearer_to_before`
needs no floor: the share of prompts on which the gap to before is smaller than the gap to gold.

Shapes: I items, S samples of each.
"""

from collections.abc import Sequence

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence
from mari_cli.config import AuditConfig
from mari_cli.data.tokenize import Item
from mari_cli.errors import counted
from mari_cli.models.load import LanguageModel
from mari_cli.progress import silent
from mari_cli.suites.generate import Sampling, generate, question_and_truth
from mari_cli.suites.scores import score

Drawn = list[Item]
"""Questions with the answers that a model gave, S in a row of each item."""


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    if "gold" not in evidence.roles:
        return [], ["the distance is left out: it is that from gold, and there is no gold model"]
    settings = config.distance
    asked = {"samples": settings.samples, "max_new_tokens": settings.max_new_tokens}
    drawn = f"{counted(settings.samples, 'answer')} of each to a question"
    gap = Case(
        "distance",
        "gap",
        f"likelihood gap to gold in both directions, {drawn}; nats per token",
        asked,
        settings.samples * 12,
        beside=("gold",),
    )
    if "target" not in evidence.roles:
        return [gap], ["`nearer to before` is left out of the distance: there is no model before"]
    nearer = Case(
        "distance",
        "nearer_to_before",
        f"share of questions on which it is nearer to the model before than to gold, {drawn}",
        {**asked, "relative": True},
        settings.samples * 24,
        beside=("gold", "target"),
        chance=0.5,
        verdict="nearer to before",
    )
    return [gap, nearer], []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    to_gold = gaps(lm, evidence.beside("gold"), case, evidence)
    if "target" not in case.beside:
        return CaseValues(list(to_gold))
    to_before = gaps(lm, evidence.beside("target"), case, evidence)
    near = [
        0.5 if before == gold else float(before < gold)
        for gold, before in zip(to_gold, to_before, strict=True)
    ]
    means = {"to_gold": sum(to_gold) / len(near), "to_before": sum(to_before) / len(near)}
    return CaseValues(list(near), means)


def gaps(one: LanguageModel, other: LanguageModel, case: Case, evidence: Evidence) -> list[float]:
    """Of each measured item the gap between two models in nats per token, both directions together; 0 where
    both give no token."""
    samples = int(case.settings["samples"])
    total = [0.0] * len(evidence.items)
    for drawing, reading in ((one, other), (other, one)):
        answered = draw(drawing, evidence, samples=samples, most=int(case.settings["max_new_tokens"]))
        there = [i for i, item in enumerate(answered) if item.num_targets > 0]
        items = [answered[i] for i in there]
        if not items:
            continue
        own, others = (nll_of(lm, items, evidence) for lm in (drawing, reading))
        for i, own_nll, other_nll in zip(there, own, others, strict=True):
            total[i // samples] += (other_nll - own_nll) / samples
    return total


def draw(lm: LanguageModel, evidence: Evidence, *, samples: int, most: int) -> Drawn:
    """So many answers of ``lm`` to each question at temperature 1, each with the end that the model set."""
    questions = [question_and_truth(item)[0] for item in evidence.items for _ in range(samples)]
    answers = generate(
        lm,
        questions,
        max_new_tokens=most,
        batch_size=evidence.batch_size,
        track=silent,
        description="",
        sampling=Sampling(1.0, evidence.seed),
    )
    return [
        Item((*question, *answer), len(question), 0)
        for question, answer in zip(questions, answers, strict=True)
    ]


def nll_of(lm: LanguageModel, items: Sequence[Item], evidence: Evidence) -> list[float]:
    """Mean loss of the answer's tokens, in nats."""
    scored = score(lm, items, batch_size=evidence.batch_size, min_k=0.4, track=silent, description="")
    return scored.column("answer_nll")


DISTANCE = AuditAttack("distance", "can be told from gold", cases, run)
