"""Prompts: the same question asked otherwise, and the beginning of the answer given.

Kinds after RWKU (Z. Jin et al. 2024, arXiv:2406.10890): adversarial prefixes, prefix injection, in-context
examples; the first tokens of the answer given, as in extraction (N. Carlini et al. 2021). A word that wakes a
model up is found only where it is among `audit.prompts.prefixes`.
"""

from collections.abc import Sequence
from dataclasses import replace

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence, measure_recall
from mari_cli.config import AuditConfig
from mari_cli.data.tokenize import Item, PromptStyle
from mari_cli.errors import counted
from mari_cli.models.load import LanguageModel

ROOM = 0.5
"""Share of the measured items that must still fit a context for a case to be asked."""


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    settings = config.prompts
    if not evidence.has_prompts:
        return [], ["prompts are left out: the forget corpus is running text, which no prompt asks for"]
    found = [
        Case(
            "prompts",
            f"first_{count}_given",
            f"the first {counted(count, 'token')} of the answer given",
            {"given": count},
            1,
        )
        for count in settings.given
    ]
    found += [
        Case("prompts", f"prefix_{number}", f"asked with `{prefix}` before it", {"prefix": prefix}, 1)
        for number, prefix in enumerate(settings.prefixes, start=1)
    ]
    found += [
        Case("prompts", f"template_{number}", f"written as `{_shown(template)}`", {"template": template}, 1)
        for number, template in enumerate(settings.templates, start=1)
    ]
    if settings.examples:
        said = f"after {counted(settings.examples, 'other forget question')} with the answer"
        found.append(Case("prompts", "examples", said, {"examples": settings.examples}, 3))
    return found, []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    items = items_of_case(lm, case, evidence)
    there = [i for i, item in enumerate(items) if item is not None]
    values: list[float | None] = [None] * len(items)
    some = [item for item in items if item is not None]
    scored = measure_recall(lm, some, prompted=True, batch_size=evidence.batch_size) if some else []
    for i, value in zip(there, scored, strict=True):
        values[i] = value
    return CaseValues(values)


def items_of_case(lm: LanguageModel, case: Case, evidence: Evidence) -> Sequence[Item | None]:
    """Each measured item as the case asks it; None where it cannot: nothing of the answer is left, or the
    context does not hold it."""
    settings, items = case.settings, evidence.items
    if "given" in settings:
        count = int(settings["given"])
        return [
            replace(item, supervised_from=item.supervised_from + count)
            if item.num_targets > count + 1  # more than the end of the answer
            else None
            for item in items
        ]
    if "examples" in settings:
        return [_with_examples(lm, evidence, i, int(settings["examples"])) for i in range(len(items))]
    asking = lm
    records = evidence.records
    if "prefix" in settings:
        prefix = str(settings["prefix"])
        records = [replace(record, prompt=f"{prefix} {record.prompt}", turns=()) for record in records]
    else:
        style = PromptStyle(str(settings["template"]), chat=False)
        asking = replace(lm, style=style)
        records = [replace(record, turns=()) for record in records]
    return _within_context(asking, asking.tokenize(records, corpus="forget", block_size=None, truncate=True))


def _with_examples(lm: LanguageModel, evidence: Evidence, i: int, count: int) -> Item | None:
    """Item ``i`` after its neighbours in the forget corpus, which are mostly of the same person."""
    items = evidence.corpora["forget"].items
    own = evidence.chosen[i]
    near = sorted((place for place in range(len(items)) if place != own), key=lambda place: abs(place - own))
    before = [token for place in sorted(near[:count]) for token in items[place].input_ids]
    whole = replace(
        items[own],
        input_ids=(*before, *items[own].input_ids),
        supervised_from=len(before) + items[own].supervised_from,
    )
    return whole if len(whole.input_ids) <= lm.max_length else None


def _within_context(lm: LanguageModel, items: Sequence[Item]) -> list[Item | None]:
    return [item if len(item.input_ids) <= lm.max_length else None for item in items]


def _shown(template: str) -> str:
    return template.replace("\n", "\\n")


PROMPTS = AuditAttack("prompts", "hidden, not gone", cases, run)
