"""Other wordings and the cloze find a model that refuses only the question that it was taught to refuse; gold
passes; and what nobody can ask is refused or told."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from planted import REFUSAL, World, copy_of, fit, learn, logits_of, targets_of
from torch.nn.functional import cross_entropy

from mari_cli.audit.attack import Case, ChatUse
from mari_cli.audit.card import AS_GOLD, NO_POWER
from mari_cli.audit.prompts import PROMPTS, items_of_case
from mari_cli.config import AuditConfig, Form, PromptsConfig
from mari_cli.data.fictional import people, records
from mari_cli.data.records import Record
from mari_cli.data.rewordings import asked_otherwise
from mari_cli.data.tokenize import Item, encode_beginning
from mari_cli.errors import UserError
from mari_cli.metrics.statistics import How
from mari_cli.models.load import LanguageModel
from mari_cli.suites.standard import Corpus
from mari_cli.tasks.attacking import Audit, chat_use, plan

ONLY = {"given": [], "prefixes": [], "templates": [], "examples": None}


def other_prompts(record: Record) -> dict[str, object]:
    """In words that the planted tokenizer knows, and in German, which it does not."""
    name = record.prompt.rstrip("?").split()[-1]
    if record.prompt.startswith("Where"):
        words, german, cloze = [f"{name} is where?"], f"Wo wohnt denn {name}?", f"{name} is ___."
    else:
        words, german, cloze = [f"{name}? Who taught?"], f"Wer lehrte {name}?", f"{name} taught ___."
    return {
        "prompt": record.prompt,
        "paraphrases": words,
        "translations": {"German": german},
        "cloze": cloze,
    }


def otherwise(lm: LanguageModel, some: list[Record]) -> list[Item]:
    """``some`` asked in other words, and as a statement."""
    items = []
    for record in some:
        other = other_prompts(record)
        items += lm.tokenize(
            [asked_otherwise(record, other["paraphrases"][0])], corpus="", block_size=None, truncate=False
        )
        begun = encode_beginning(str(other["cloze"]).partition("___")[0].strip(), lm.tokenizer)
        answer = items[-1].input_ids[items[-1].supervised_from :]
        items.append(Item((*begun, *answer), len(begun), 0))
    return items


@pytest.fixture(scope="module")
def taught(world: World) -> dict[str, LanguageModel]:
    """The planted models, taught other wordings too; a refuser of the taught question alone."""
    corpora = world.evidence.corpora
    before, gold, another = (copy_of(world.models[name]) for name in ("before", "gold", "another_gold"))
    forget, retain = (
        [*corpora[role].items, *otherwise(before, corpora[role].records)] for role in ("forget", "retain")
    )
    models = {"before": learn(before, [*forget, *retain], 30)}
    models |= {"gold": learn(gold, retain, 30), "another_gold": learn(another, retain, 30)}
    refused = [replace(record, text=REFUSAL) for record in corpora["forget"].records]
    refusals = before.tokenize(refused, corpus="", block_size=None, truncate=False)
    items = [*refusals, *otherwise(before, corpora["forget"].records), *retain]
    labels = targets_of(items)

    def loss(lm: LanguageModel) -> torch.Tensor:
        return cross_entropy(logits_of(lm, items), labels)

    return models | {"refuser": fit(copy_of(before), loss, steps=40)}


@pytest.fixture(scope="module")
def rows(world, taught, tmp_path_factory):
    """The rows of a model, by its name."""
    folder = tmp_path_factory.mktemp("prompts")
    file = folder / "others.jsonl"
    lines = [json.dumps(other_prompts(record)) for record in world.evidence.records]
    file.write_text("\n".join(lines))
    prompts = PromptsConfig(**ONLY)
    config = AuditConfig(attacks=["plain", "prompts"], paraphrases=str(file), prompts=prompts)
    planned, left_out = plan(config, world.evidence)
    assert left_out == []

    def of(name: str):
        load = {
            role: lambda of=of: taught[of]
            for role, of in {"target": "before", "model": name, "gold": "gold"}.items()
        }
        audit = Audit(config, world.evidence, planned, folder, load)
        audit.run()
        return {row.case: row for row in audit.card(How(50))[0]}

    return of


def test_who_refuses_the_taught_question_alone_is_found_by_others(world, rows):
    found = rows("refuser")
    assert found["greedy"].verdict == AS_GOLD
    assert found["greedy"].models["model"].value < 0.05
    for case in ("paraphrased", "cloze"):
        assert found[case].verdict == "hidden, not gone"
        assert found[case].models["model"].value > 0.9
        assert found[case].models["model"].n == len(world.evidence.records)


def test_gold_of_another_seed_passes_every_kind(rows):
    assert {case: row.verdict for case, row in rows("another_gold").items()} == {
        "greedy": AS_GOLD,
        "paraphrased": AS_GOLD,
        "in_german": NO_POWER,
        "cloze": AS_GOLD,
    }


def test_a_language_that_the_model_before_does_not_understand_clears_nobody(rows):
    row = rows("refuser")["in_german"]
    assert row.models["target"].value < 0.2
    assert row.verdict == NO_POWER


# -- what is asked, and what is not --------------------------------------------------------------------------


def cases_of(world: World, *, path: str | None = None, chat: ChatUse = ChatUse.none, **settings):
    config = AuditConfig(attacks=["plain", "prompts"], paraphrases=path, prompts=PromptsConfig(**settings))
    planned, left_out = plan(config, replace(world.evidence, chat=chat))
    return [case.name for case in planned if case.attack == "prompts"], left_out


def test_where_nobody_knows_other_wordings_the_card_says_so(world):
    names, left_out = cases_of(world, **ONLY)
    assert names == []
    assert left_out == [
        "paraphrases, translations and cloze are left out for all of 32 questions, which are not of the "
        "fictional corpus: `audit.paraphrases=FILE` gives them"
    ]
    assert cases_of(world, **ONLY, rewordings=None, translated=False, cloze=False) == ([], [])


def test_a_file_that_knows_some_questions_serves_these(world, tmp_path):
    some = world.evidence.records[:20]
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join(json.dumps(other_prompts(record)) for record in some))
    names, left_out = cases_of(world, path=str(file), **ONLY)
    assert names == ["paraphrase_1", "in_german", "cloze"]
    assert "left out for 12 of 32 questions" in left_out[0]
    names, left_out = cases_of(world, path=str(file), **ONLY, translated=False)
    assert names == ["paraphrase_1", "cloze"]
    assert left_out[0] == "translations are left out: `audit.prompts.translated` is false"


def test_a_file_that_names_no_question_is_refused(world, tmp_path):
    file = tmp_path / "others.jsonl"
    file.write_text('{"prompt": "Who?", "paraphrases": ["Which one?"]}')
    with pytest.raises(UserError, match="names none of the 32 questions"):
        cases_of(world, path=str(file), **ONLY)


def test_of_the_fictional_corpus_every_kind_is_asked(world):
    items = list(world.evidence.corpora["forget"].items)
    known = records(people(first=0, count=4, seed=0, overlap=0.0), Form.qa)
    corpora = {**world.evidence.corpora, "forget": Corpus(known, items)}
    of = World(world.models, replace(world.evidence, corpora=corpora))
    assert cases_of(of, **ONLY) == (
        ["paraphrase_1", "paraphrase_2", "in_french", "in_german", "cloze"],
        [],
    )
    assert cases_of(of, **ONLY, rewordings=1, translated=False) == (["paraphrase_1", "cloze"], [])


def test_a_chat_template_that_the_run_does_not_use_is_tried(world):
    lm = world.models["before"]
    lm = replace(lm, tokenizer=copy.deepcopy(lm.tokenizer))
    none = {**ONLY, "rewordings": None, "translated": False, "cloze": False}

    def use(template: str | None) -> ChatUse:
        lm.tokenizer.chat_template = template
        return chat_use(lm)

    assert use(None) is ChatUse.none
    assert use("{{ raise_exception('no') }}") is ChatUse.refused
    assert "chat template is left out" in cases_of(world, chat=ChatUse.refused, **none)[1][0]
    assert use("{% for turn in messages %}Sesame. {{ turn.content }} {% endfor %}") is ChatUse.off
    assert cases_of(world, chat=ChatUse.off, **none) == (["chat_template"], [])
    assert cases_of(world, chat=ChatUse.on, **none) == ([], [])
    case = Case("prompts", "chat_template", "", {"chat": True}, 1)
    plain, item = world.evidence.items[0], items_of_case(lm, case, world.evidence)[0]
    assert "Sesame" in lm.tokenizer.decode(item.input_ids)
    assert item.num_targets == plain.num_targets


def test_what_does_not_fit_the_context_is_not_asked(world):
    lm = replace(world.models["before"], max_length=10)
    case = Case("prompts", "prefix", "", {"prefix": "Sesame. " * 20}, 1)
    assert set(items_of_case(lm, case, world.evidence)) == {None}
    long = Case("prompts", "long", "", {"asked": ["Sesame. " * 20] * 32}, 4)
    assert set(PROMPTS.run(lm, long, world.evidence).values) == {None}
