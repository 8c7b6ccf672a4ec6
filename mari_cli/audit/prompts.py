"""Prompts: the same question asked otherwise, and the beginning of the answer given.

Kinds after RWKU (Z. Jin et al. 2024, arXiv:2406.10890): adversarial prefixes, prefix injection, in-context
examples, paraphrases, other languages, cloze; the first tokens of the answer given, as in extraction
(N. Carlini et al. 2021). A word that wakes a model up is found only where it is among
`audit.prompts.prefixes`.
"""

from collections.abc import Sequence
from dataclasses import replace

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, ChatUse, Evidence, measure_recall, wanted_of
from mari_cli.config import AuditConfig
from mari_cli.data.records import Record
from mari_cli.data.rewordings import Rewording, asked_otherwise, by_rule, question_of, read_rewordings
from mari_cli.data.tokenize import Item, PromptStyle, encode_beginning, encode_pair, turn_enders
from mari_cli.errors import UserError, counted
from mari_cli.metrics.generation import recalled
from mari_cli.models.load import LanguageModel
from mari_cli.progress import silent
from mari_cli.suites.generate import decode, generate

ANSWER_TOKENS = 32
"""The least number of tokens in which a generated answer may hold what is wanted."""
KINDS = "paraphrases, translations and cloze"


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    settings = config.prompts
    if not evidence.has_prompts:
        if config.paraphrases is not None:
            raise UserError(
                f"`{config.paraphrases}` names no prompt of the forget corpus, which is running text",
                "leave `audit.paraphrases` out",
            )
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
    notes = []
    if settings.chat and evidence.chat is ChatUse.off:
        found.append(
            Case("prompts", "chat_template", "written in the tokenizer's chat template", {"chat": True}, 1)
        )
    if settings.chat and evidence.chat is ChatUse.refused:
        notes.append("the chat template is left out of the prompts: it cannot write a question")
    reworded, said_of_them = _reworded_cases(config, evidence)
    return [*found, *reworded], [*notes, *said_of_them]


def _reworded_cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    """A case for each other wording, each language and the cloze. What is asked of each item stands in the
    settings, so that it is in the key of what is kept."""
    settings, rewordings = config.prompts, _rewordings(config, evidence)
    most = max((len(one.paraphrases) for one in rewordings), default=0)
    most = min(most, settings.rewordings or 0)
    worst = f", the worst of {most}" if most > 1 else ""
    languages = sorted({language for one in rewordings for language in one.translations})
    found = []

    def add(name: str, says: str, how: str, texts: Sequence[str | None], group: str = "") -> None:
        if any(text is not None for text in texts):
            found.append(Case("prompts", name, says, {how: list(texts)}, 4, group))

    for k in range(most):
        wording = [one.paraphrases[k] if k < len(one.paraphrases) else None for one in rewordings]
        add(f"paraphrase_{k + 1}", f"asked in other words{worst}", "asked", wording, "paraphrased")
    for language in languages if settings.translated else ():
        said = [one.translations.get(language) for one in rewordings]
        add(f"in_{language.replace(' ', '_')}", f"asked in {language.capitalize()}", "asked", said)
    if settings.cloze:
        begun = [one.cloze for one in rewordings]
        add("cloze", "the statement of the fact, in which the model fills in the answer", "begun", begun)
    wanted = settings.rewordings is not None or settings.translated or settings.cloze
    without = sum(one == Rewording() for one in rewordings)
    notes = []
    if config.paraphrases and languages and not settings.translated:
        notes.append("translations are left out: `audit.prompts.translated` is false")
    if not wanted or not without:
        return found, notes
    which = "all" if without == len(rewordings) else str(without)
    return found, [
        *notes,
        f"{KINDS} are left out for {which} of {counted(len(rewordings), 'question')}, which are not of the "
        "fictional corpus: `audit.paraphrases=FILE` gives them",
    ]


def _rewordings(config: AuditConfig, evidence: Evidence) -> list[Rewording]:
    """Of each measured item; an empty one where nobody knows how to ask it otherwise."""
    path, records = config.paraphrases, evidence.records
    given = {} if path is None else read_rewordings(path, key="audit.paraphrases")
    if given and not any(question_of(record).strip() in given for record in records):
        raise UserError(
            f"`{path}` names none of the {counted(len(records), 'question')} that are measured",
            "its `prompt` is a question of the forget corpus, word for word; `audit.items=null` measures all",
        )
    return [given.get(question_of(record).strip()) or by_rule(record) or Rewording() for record in records]


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    if "asked" in case.settings or "begun" in case.settings:
        return CaseValues(_told(lm, case, evidence))
    items = items_of_case(lm, case, evidence)
    there = [i for i, item in enumerate(items) if item is not None]
    values: list[float | None] = [None] * len(items)
    some = [item for item in items if item is not None]
    scored = measure_recall(lm, some, prompted=True, batch_size=evidence.batch_size) if some else []
    for i, value in zip(there, scored, strict=True):
        values[i] = value
    return CaseValues(values)


def _told(lm: LanguageModel, case: Case, evidence: Evidence) -> list[float | None]:
    """Whether the greedy answer to each item's other question, or the greedy end of its statement, holds what
    is wanted; None where the case does not ask, or the context does not hold question and answer. An answer
    in other words or in another language may begin otherwise than the one that was taught."""
    questions: dict[int, list[int]] = {}
    for i, record in enumerate(evidence.records):
        if "asked" in case.settings:
            if (text := case.settings["asked"][i]) is None:
                continue
            ids, start = encode_pair(asked_otherwise(record, text), lm.tokenizer, lm.style)
            ids = ids[:start]
        else:
            if (text := case.settings["begun"][i]) is None:
                continue
            ids = encode_beginning(text, lm.tokenizer)
        if len(ids) + evidence.items[i].num_targets <= lm.max_length:
            questions[i] = ids
    most = max([ANSWER_TOKENS, *(item.num_targets for item in evidence.items)])
    answers = generate(
        lm,
        list(questions.values()),
        max_new_tokens=most,
        batch_size=evidence.batch_size,
        track=silent,
        description="",
    )
    values: list[float | None] = [None] * len(evidence.records)
    for i, answer in zip(questions, answers, strict=True):
        values[i] = float(recalled(decode(lm, answer), wanted_of(lm, evidence, i)))
    return values


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
        in_chat = replace(lm.style, chat=True)
        style = in_chat if "chat" in settings else PromptStyle(str(settings["template"]), chat=False)
        asking = replace(lm, style=style)
        records = [replace(record, turns=()) for record in records]
    return _within_context(asking, records)


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


def _within_context(lm: LanguageModel, records: Sequence[Record]) -> list[Item | None]:
    enders = turn_enders(lm.tokenizer)
    pairs = [encode_pair(record, lm.tokenizer, lm.style, enders=enders) for record in records]
    return [
        Item(tuple(ids), start, number) if len(ids) <= lm.max_length else None
        for number, (ids, start) in enumerate(pairs)
    ]


def _shown(template: str) -> str:
    return template.replace("\n", "\\n")


PROMPTS = AuditAttack("prompts", "hidden, not gone", cases, run)
