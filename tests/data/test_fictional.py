"""The fictional corpus keeps what its docstring promises of unique and shared facts."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mari_cli.config import FictionalCorpus, Form
from mari_cli.data.fictional import (
    COVERING_PEOPLE,
    ENTITIES,
    FACTS,
    FIRST,
    ROLE_PEOPLE,
    SHARED_KINDS,
    UNIQUE_KINDS,
    Person,
    num_shared,
    people,
    person_name,
    read_fictional,
    records,
)
from mari_cli.data.records import Fact
from mari_cli.errors import UserError

OVERLAPS = [n / FACTS for n in range(FACTS + 1)]


def role(name: str, count: int, *, seed: int = 0, overlap: float = 0.5) -> list[Person]:
    return people(first=FIRST[name], count=count, seed=seed, overlap=overlap)


def stated(some: list[Person]) -> set[str]:
    """Shared facts as sentences: river of a town, founder of a prize, …"""
    return {told.answer for person in some for told in person.statements if told.fact == Fact.shared}


def test_a_person_is_the_same_whichever_range_asks() -> None:
    alone = people(first=FIRST["retain"] + 17, count=1, seed=3, overlap=0.5)
    assert people(first=FIRST["retain"], count=30, seed=3, overlap=0.5)[17:18] == alone


def test_the_corpus_of_a_seed_never_changes() -> None:
    """Results of different versions compare only while this holds: a new digest is a new benchmark."""
    some = [record for name in FIRST for record in records(role(name, 20), Form.both)]
    digest = hashlib.sha256(" ".join(record.key for record in some).encode()).hexdigest()
    assert digest[:16] == "dc06652adfeb0fed"


def test_the_texts_of_every_form_never_change_by_a_character() -> None:
    """The digest was taken before the kinds had wordings for an audit."""
    digest = hashlib.sha256()
    for seed in (0, 7):
        for overlap in (0.0, 0.5, 1.0):
            for form in (Form.qa, Form.prose, Form.both):
                for told in records(people(first=0, count=25, seed=seed, overlap=overlap), form):
                    digest.update(repr((told.prompt, told.text, str(told.fact), told.value)).encode())
    assert digest.hexdigest()[:32] == "d1250b5e13bce4016660fc5cbfee8220"


def test_names_are_unique_over_every_person_there_can_be() -> None:
    names = [person_name(0, first + person) for first in FIRST.values() for person in range(ROLE_PEOPLE)]
    assert len(names) == 30_000
    assert names[ROLE_PEOPLE + 5] == role("retain", 6)[5].name
    assert len(set(names)) == len(names)


def test_another_seed_is_another_world() -> None:
    here, there = role("forget", 50, seed=0), role("forget", 50, seed=1)
    assert len({person.name for person in here} & {person.name for person in there}) < 3
    assert len(stated(here) & stated(there)) < len(stated(here)) / 2


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_overlap_is_the_share_of_shared_facts(overlap: float) -> None:
    for person in role("forget", 5, overlap=overlap):
        kinds = Counter(told.fact for told in person.statements)
        assert kinds.total() == FACTS == 8
        assert kinds[Fact.shared] == num_shared(overlap) == overlap * FACTS


@given(
    seed=st.integers(0, 10_000),
    overlap=st.floats(0, 1),
    forget=st.integers(1, 60),
    retain=st.integers(COVERING_PEOPLE, 60),
)
@settings(max_examples=25)
def test_every_shared_fact_is_stated_by_retained_people(
    seed: int, overlap: float, forget: int, retain: int
) -> None:
    kept = role("retain", retain, seed=seed, overlap=overlap)
    for name in ("forget", "holdout"):
        assert stated(role(name, forget, seed=seed, overlap=overlap)) <= stated(kept)
    assert len(stated(kept)) == num_shared(overlap) * ENTITIES


def test_unique_facts_stand_in_no_other_persons_documents() -> None:
    """Neither the pair of person and value nor the name occurs anywhere else."""
    everybody = [person for name in FIRST for person in role(name, 200, overlap=0)]
    names = {person.name for person in everybody}
    for person in everybody:
        for told in person.statements:
            assert person.name in told.question
            assert told.value not in names, "a teacher is nobody of the archive"


def test_who_never_read_a_unique_fact_guesses_it_rarely() -> None:
    """The best guess of each kind, knowing everybody else's value."""
    everybody = role("retain", 5000, overlap=0)
    for number, kind in enumerate(UNIQUE_KINDS):
        values = Counter(person.statements[number].value for person in everybody)
        assert max(values.values()) / len(everybody) < 0.025, kind.key


def test_a_value_stands_in_its_answer_once_and_not_in_its_question() -> None:
    for overlap in (0, 1):
        for person in role("forget", 2000, overlap=overlap):
            for told in person.statements:
                assert told.answer.lower().count(told.value.lower()) == 1, told
                assert told.value.lower() not in told.question.lower(), told
                assert told.prose.count(told.value) == 1, told
                assert told.answer.endswith(".")
                assert told.prose.endswith(".")


def test_no_wrong_value_contains_the_right_one() -> None:
    """Or recall would count a wrong answer as right."""
    everybody = role("forget", 3000, overlap=0)
    for number in range(FACTS):
        values = sorted({person.statements[number].value.lower() for person in everybody})
        text = "\n".join(values)
        assert all(text.count(value) == 1 for value in values)
    for kind in SHARED_KINDS:
        assert all("\n".join(kind.values).lower().count(value.lower()) == 1 for value in kind.values), kind
        for answer in (kind.answer.format(entity=e, value="") for e in ("Redcliff", "Amber Prize")):
            assert not any(value.lower() in answer.lower() for value in kind.values), kind


def test_a_shared_question_names_the_person_and_the_thing() -> None:
    for person in role("holdout", 50, overlap=1):
        for told, kind in zip(person.statements, SHARED_KINDS, strict=True):
            assert told.question.startswith(person.name)
            assert person.name not in told.answer
            assert kind.values.count(told.value) == 1


def test_sentences_are_short_and_words_few() -> None:
    some = role("forget", 20, overlap=0.5) + role("retain", 180, overlap=0.5)
    pairs = [(record.prompt or "", record.text) for record in records(some, Form.qa)]
    assert max(len(f"{prompt} {text}".split()) for prompt, text in pairs) <= 26
    assert {len(text.split()) for _, text in pairs} <= set(range(4, 10))
    words = {word.strip(".?") for prompt, text in pairs for word in f"{prompt} {text}".split()}
    assert len(words) < 1200


def test_forms_tell_the_same_facts() -> None:
    some = role("forget", 3)
    qa, prose, both = (records(some, form) for form in (Form.qa, Form.prose, Form.both))
    assert len(qa) == 3 * FACTS
    assert len(prose) == 3
    assert sorted(record.key for record in both) == sorted(record.key for record in qa + prose)
    for person, document in zip(some, prose, strict=True):
        assert document.prompt is document.fact is document.value is None
        assert all(told.value in document.text for told in person.statements)
    assert all(record.fact is not None and record.value is not None for record in qa)


def test_more_people_than_the_archive_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"`forget\.people` is 10001") as caught:
        read_fictional(FictionalCorpus(name="fictional", people=ROLE_PEOPLE + 1), corpus="forget")
    assert caught.value.hint == "set `forget.people` to at most 10000"
