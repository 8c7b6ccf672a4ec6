"""Tokens are found again in the text that they were cut from, and only the record's own words are its own."""

from functools import lru_cache

import pytest

from mari_cli.data.records import Record
from mari_cli.data.spans import locate
from mari_cli.data.tokenize import PromptStyle, tokenize
from mari_cli.models.tokenizer import train_tokenizer

TEXT = "The cat sat on the mat. It is raining again; 1234 drops fell on Anna's roof, and nobody heard them."


@lru_cache
def tokenizer():
    return train_tokenizer([TEXT] * 3, 320)


PLAIN = PromptStyle("Question: {prompt}\nAnswer: ", chat=False)
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chatting():
    tok = tokenizer()
    tok.chat_template = CHAT
    yield tok
    tok.chat_template = None


def located(records, tok, style=PLAIN, block_size=None):
    items = tokenize(
        records, tok, style=style, max_length=200, block_size=block_size, truncate=False, corpus="forget"
    )
    return items, locate(records, items, tok, style)


def own_words(of_item) -> list[str]:
    return [of_item.text[word.start : word.end] for words in of_item.words() for word in words]


def test_each_token_stands_where_its_text_is():
    tok = tokenizer()
    records = [Record(prompt="Who sat, Anna?", text="The cat sat.")]
    items, (found,) = located(records, tok)
    assert len(found.tokens) == len(items[0].input_ids)
    for token, (start, end) in zip(items[0].input_ids, found.tokens, strict=True):
        if start < end:
            assert tok.decode([token]).strip() == found.text[start:end].strip()


@pytest.mark.parametrize("style", ["template", "chat"])
def test_the_words_of_a_template_are_nobodys(style, chatting):
    records = [Record(prompt="Is Question an Answer?", text="Answer: user it is.")]
    _, (found,) = located(records, chatting, PLAIN if style == "template" else PromptStyle("", chat=True))
    assert own_words(found) == ["Is", "Question", "an", "Answer", "Answer", "user", "it", "is"]


def test_a_prompt_that_the_template_says_twice_is_found_twice():
    style = PromptStyle("{prompt}\nOnce more: {prompt}\n", chat=False)
    _, (found,) = located([Record(prompt="Anna?", text="Yes.")], tokenizer(), style)
    assert own_words(found) == ["Anna", "Anna", "Yes"]


def test_blocks_of_running_text_lie_end_to_end_in_it():
    records = [Record(text="The cat sat on the mat. " * 4), Record(text="It is raining again. " * 3)]
    items, found = located(records, tokenizer(), block_size=8)
    for number, record in enumerate(records):
        of_record = [of for item, of in zip(items, found, strict=True) if item.record == number]
        assert "".join(of.text[slice(*of.own[0])] for of in of_record) == record.text
    opening = found[0].tokens[0]
    assert opening == (0, 0)  # BOS stands for no text


def test_a_possessive_is_no_part_of_a_name():
    _, (found,) = located([Record(text="Anna's cat, the drops' and O'Neil’s roof")], tokenizer())
    assert [word.name for words in found.words() for word in words] == [
        "anna", "cat", "the", "drops", "and", "o'neil", "roof",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["José Müller", "Jose\u0301 Mu\u0308ller", "रोज़ा वर्मा"])
def test_accents_and_vowel_signs_are_parts_of_their_words(text):
    _, (found,) = located([Record(prompt=f"Who is {text}?", text="A dyer.")], tokenizer())
    assert own_words(found)[2:4] == text.split()


def test_a_word_has_one_name_however_its_accents_are_composed():
    records = [Record(prompt="Who is José?", text="Jose\u0301.")]
    _, (found,) = located(records, tokenizer())
    names = [word.name for words in found.words() for word in words]
    assert names == ["who", "is", "josé", "josé"]
