"""How a question is asked otherwise: by the rule of the fictional corpus, and from a file."""

import json
from pathlib import Path

import pytest

from mari_cli.config import Form
from mari_cli.data.fictional import UNIQUE_KINDS, people, records
from mari_cli.data.records import Record, Turn
from mari_cli.data.rewordings import asked_otherwise, by_rule, question_of, read_rewordings
from mari_cli.errors import UserError

SOME = people(first=0, count=20, seed=3, overlap=0.0)


def test_every_kind_has_wordings_of_its_own_with_the_name_and_without_the_value() -> None:
    for person in SOME:
        for told, record in zip(person.statements, records([person], Form.qa), strict=True):
            found = by_rule(record)
            assert found is not None
            texts = [*found.paraphrases, *found.translations.values(), found.cloze]
            assert len(found.paraphrases) >= 2
            assert set(found.translations) == {"german", "french"}
            assert len({record.prompt, record.text, told.prose, *texts}) == 3 + len(texts)
            assert all(text.count(person.name) == 1 and told.value not in text for text in texts)
            assert not any(mark in text for text in texts for mark in "{}_")


def test_the_cloze_is_a_statement_with_the_value_in_the_gap() -> None:
    for of in UNIQUE_KINDS:
        assert of.cloze.endswith("___.")
        assert of.cloze.count("{name}") == 1


def test_a_question_of_another_corpus_has_no_rule() -> None:
    fictional = records(SOME[:1], Form.qa)[0]
    assert by_rule(Record(prompt="Who is Ada?", text="The teacher was Bo.")) is None
    assert by_rule(Record(prompt=fictional.prompt, text="In 1832.")) is None
    assert by_rule(Record(text="Ada was born in 1832.")) is None
    shared = records(people(first=0, count=1, seed=0, overlap=1.0), Form.qa)
    assert [by_rule(record) for record in shared] == [None] * 8


def test_of_a_conversation_the_last_turn_is_asked_otherwise() -> None:
    turns = (Turn("system", "Be kind."), Turn("user", "Who?"))
    record = Record(prompt="Be kind. Who?", text="Bo.", turns=turns, value="Bo")
    other = asked_otherwise(record, "Which one?")
    assert question_of(record) == "Who?"
    assert other.turns == (turns[0], Turn("user", "Which one?"))
    assert (other.text, other.value) == ("Bo.", "Bo")


def read(tmp_path: Path, *lines: object):
    file = tmp_path / "others.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_rewordings(str(file), key="audit.paraphrases")


def test_a_file_says_how_to_ask_otherwise(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "prompt": "Who taught Ada?",
            "paraphrases": ["Whose pupil was Ada?"],
            "cloze": "Bo taught ___ to read.",
        },
        {"prompt": "Who?", "translations": {"German": "Wer?"}},
    )
    assert list(found) == ["Who taught Ada?", "Who?"]
    assert found["Who taught Ada?"].paraphrases == ["Whose pupil was Ada?"]
    assert found["Who taught Ada?"].cloze == "Bo taught"
    assert found["Who?"].translations == {"german": "Wer?"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "holds no records"),
        ("[]", "is a list, not an object"),
        ("{", "malformed JSON"),
        ({"paraphrases": ["Who?"]}, "no field `prompt`"),
        ({"prompt": "Who?"}, "has no other prompt"),
        ({"prompt": "Who?", "paraphrases": []}, "`paraphrases` in record 1 .* is empty"),
        ({"prompt": "Who?", "paraphrases": [""]}, "`paraphrases` in record 1 .* is empty"),
        ({"prompt": "Who?", "paraphrases": [3]}, "is a number, not a string"),
        ({"prompt": "Who?", "paraphrases": "Which?"}, "is a string, not a list"),
        ({"prompt": "Who?", "paraphrases": None}, "is null, not a list"),
        ({"prompt": "Who?", "paraphrases": ["Who?"]}, "again, word for word"),
        ({"prompt": "Who?", "translations": {}}, "`translations` in record 1 .* is empty"),
        ({"prompt": "Who?", "translations": ["Wer?"]}, "is a list, not an object"),
        ({"prompt": "Who?", "translations": {"a/b": "Wer?"}}, "names no language"),
        ({"prompt": "Who?", "translations": {"German": "Wer?", "german": "Wer da?"}}, "`german` twice"),
        ({"prompt": "Who?", "cloze": "It was Bo."}, "needs one `___`"),
        ({"prompt": "Who?", "cloze": "___ was it."}, "with words before it"),
        ({"prompt": "Who?", "other": ["Which?"]}, "has a field `other`"),
    ],
)
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, line: object, why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        read(tmp_path, line)
    assert refused.value.hint


def test_a_prompt_stands_in_one_line(tmp_path: Path) -> None:
    line = {"prompt": "Who?", "paraphrases": ["Which one?"]}
    with pytest.raises(UserError, match=r"record 2 .* has the prompt of another record"):
        read(tmp_path, line, line)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.jsonl"), str(tmp_path), "", "a" * 5000, "a\0b"):
        with pytest.raises(UserError, match="no such file"):
            read_rewordings(path, key="audit.paraphrases")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "Wer \xe4?"}')
    with pytest.raises(UserError, match="is not UTF-8"):
        read_rewordings(str(tmp_path / "latin.jsonl"), key="audit.paraphrases")
