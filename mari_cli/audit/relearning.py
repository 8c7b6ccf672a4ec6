"""Relearning: a few forget items are taught again, and the *other* ones come back, or not.

"Jogging the Memory of Unlearned LLMs Through Targeted Relearning Attacks" (S. Hu, Y. Fu, Z. S. Wu, V. Smith,
2024, arXiv:2406.13356). The measure is the area below the curve of recall over the logarithm of steps, on
items that are not taught: 0 nothing comes back, 1 all is there from the first step on. Gold relearns too, so
that only the area between the two curves says anything. Every learning rate is tried, and the worst is told.
"""

import math
import random
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence, mean, measure_recall, restored
from mari_cli.config import AuditConfig
from mari_cli.data.tokenize import Item
from mari_cli.errors import counted
from mari_cli.lm_head import head_of
from mari_cli.models.backbone import hidden_states
from mari_cli.models.load import LanguageModel

HARMLESS = ("retain", "holdout")
"""Corpora that hold nothing of the forget data, and are taught in its place."""
LEAST_MEASURED = 8
"""Items that must be left to measure once some are taught."""


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    settings = config.relearning
    found, notes = [], []
    looks = looks_at(settings.steps)
    for count in settings.items:
        if len(evidence.chosen) - count < LEAST_MEASURED:
            notes.append(
                f"relearning on {counted(count, 'item')} is left out: of the {len(evidence.chosen)} that are "
                f"measured fewer than {LEAST_MEASURED} would be left"
            )
            continue
        for lr in settings.lrs:
            batch = min(count, settings.batch)
            found.append(
                Case(
                    "relearning",
                    f"{count}_items_lr_{lr:g}",
                    f"{counted(count, 'forget item')} taught again for {counted(settings.steps, 'step')}, "
                    f"the others asked; learning rate {lr:g}{_worst_of(settings.lrs)}",
                    {"items": count, "lr": lr, "steps": settings.steps, "batch": batch, "corpus": "forget"},
                    len(looks) + 3 * settings.steps * batch / len(evidence.chosen),
                    group=f"{count}_items",
                    taught=count,
                )
            )
    for corpus in HARMLESS if settings.harmless else ():
        if corpus not in evidence.corpora:
            notes.append(f"relearning on a harmless {corpus} corpus is left out: there is none")
            continue
        taught = min(settings.harmless or 0, len(evidence.corpora[corpus].items))
        batch = min(taught, settings.batch)
        for lr in settings.lrs:
            found.append(
                Case(
                    "relearning",
                    f"{corpus}_lr_{lr:g}",
                    f"taught {counted(taught, f'harmless {corpus} item')} for "
                    f"{counted(settings.steps, 'step')}; learning rate {lr:g}{_worst_of(settings.lrs)}",
                    {"items": taught, "lr": lr, "steps": settings.steps, "batch": batch, "corpus": corpus},
                    len(looks) + 3 * settings.steps * batch / len(evidence.chosen),
                    group=f"{corpus}_items",
                )
            )
    return found, notes


def _worst_of(lrs: Sequence[float]) -> str:
    return f", the worst of {len(lrs)}" if len(lrs) > 1 else ""


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    """Fine-tune with AdamW, look at the other items at steps 0, 1, 2, 4, …, and put the weights back."""
    count, corpus = int(case.settings["items"]), str(case.settings["corpus"])
    dice = random.Random(f"{evidence.seed} relearning {corpus} {count}")
    places = list(range(len(evidence.chosen)))
    if corpus == "forget":
        taught_places = sorted(dice.sample(places, count))
        taught = [evidence.items[i] for i in taught_places]
        asked = [i for i in places if i not in set(taught_places)]
    else:
        items = evidence.corpora[corpus].items
        taught = [items[i] for i in sorted(dice.sample(range(len(items)), min(count, len(items))))]
        asked = places
    others = [evidence.items[i] for i in asked]
    looks = looks_at(int(case.settings["steps"]))
    curve: list[list[float]] = []

    def look() -> None:
        curve.append(
            measure_recall(lm, others, prompted=evidence.has_prompts, batch_size=evidence.batch_size)
        )

    with restored(lm.model):
        optimizer = torch.optim.AdamW(lm.model.parameters(), lr=float(case.settings["lr"]), weight_decay=0.0)
        for parameter in lm.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        look()
        for step in range(1, looks[-1] + 1):
            batch = [taught[i] for i in dice.sample(range(len(taught)), int(case.settings["batch"]))]
            _step(lm, batch, optimizer)
            if step in looks:
                look()
    values: list[float | None] = [None] * len(places)
    for place, of_item in zip(asked, zip(*curve, strict=True), strict=True):
        values[place] = area(looks, of_item)
    return CaseValues(values, {"steps": looks, "recall": [mean(at) for at in curve]})


def looks_at(steps: int) -> list[int]:
    """0, 1, 2, 4, … and ``steps``."""
    return sorted({0, steps, *(2**power for power in range(int(math.log2(steps)) + 1))})


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Mean height of a curve over log2(1 + step), by the trapezoidal rule."""
    at = [math.log2(1 + step) for step in steps]
    parts = zip(at, at[1:], values, values[1:], strict=False)
    return sum((right - left) * (low + high) / 2 for left, right, low, high in parts) / (at[-1] - at[0])


def steps_to_half(detail: dict[str, list[float]], whole: float) -> int | None:
    """The first step at which recall is half of ``whole``, the target's without an attack; None: never."""
    reached = zip(detail["steps"], detail["recall"], strict=True)
    return next((int(step) for step, value in reached if value >= whole / 2), None)


def _step(lm: LanguageModel, items: Sequence[Item], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    h_ND, _ = hidden_states(lm.model, lm.compute, items, packed=lm.layout.packed)
    labels = torch.tensor([token for item in items for token in item.input_ids[item.supervised_from :]])
    loss = cross_entropy(head_of(lm.model)(h_ND).float(), labels.to(lm.device))
    loss.backward()
    optimizer.step()


RELEARNING = AuditAttack("relearning", "comes back", cases, run)
