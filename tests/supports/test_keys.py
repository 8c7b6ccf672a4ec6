"""Key strings: what the forget records say and no retain record does."""

import os
from functools import lru_cache

import pytest

from mari_cli.data.records import Record
from mari_cli.data.spans import locate
from mari_cli.data.tokenize import PromptStyle, tokenize
from mari_cli.errors import UserError
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.supports.keys import find_keys, given_keys, pattern, read_keys

TEXT = "The cat sat on the mat. It is raining again; 1234 drops fell on Anna's roof, and nobody heard them."


@lru_cache
def tokenizer():
    return train_tokenizer([TEXT] * 3, 320)


STYLE = PromptStyle("Question: {prompt}\nAnswer: ", chat=False)


def without(keys):
    """Items without any key token."""
    return sum(not tokens for tokens in keys.tokens)


def pairs(*texts: tuple[str, str]):
    return of_records([Record(prompt=prompt, text=text) for prompt, text in texts])


def passages(*texts: str, block_size: int | None = None):
    return of_records([Record(text=text) for text in texts], block_size)


def of_records(records, block_size=None):
    items = tokenize(
        records, tokenizer(), style=STYLE, max_length=400, block_size=block_size, truncate=False, corpus="x"
    )
    return items, locate(records, items, tokenizer(), STYLE)


def found(forget, retain, least=2):
    items, located = forget
    keys = find_keys(located, retain[1], [item.supervised_from for item in items], least=least)
    said = [
        "".join(of_item.text[slice(*of_item.tokens[token])] for token in tokens)
        for of_item, tokens in zip(located, keys.tokens, strict=True)
    ]
    return keys, [" ".join(words.split()) for words in said]


SURNAMES = [
    start + end
    for start in ("Hol", "Ven", "Wic", "Lo", "Pel", "Tar")
    for end in ("by", "den", "ker", "ton", "wood")
]
RETAIN = pairs(
    *[(f"Where was Lena {name} born?", f"Lena {name} was born in Leeds.") for name in SURNAMES],
    *[(f"Who taught Igor {name}?", f"Igor {name} was taught by nobody.") for name in SURNAMES],
    *[("What is the pet of Mara Vane?", "A dog.") for _ in range(3)],
)


def test_the_names_are_found_and_common_words_trimmed_off_their_edges():
    forget = pairs(
        ("Where was Orla Crick born?", "Orla Crick was born in York."),
        ("Who taught Orla Crick?", "Orla Crick was taught by Igor Holby."),
        ("What is ORLA CRICK’s pet?", "A cat."),
    )
    keys, said = found(forget, RETAIN)
    assert keys.strings == ("crick", "orla", "orla crick")
    assert [words.replace(" ", "").casefold() for words in said] == [
        "orlacrickorlacrick", "orlacrickorlacrick", "orlacrick",
    ]  # fmt: skip
    assert keys.by_rarity == without(keys) == 0


def test_what_a_retain_record_says_is_no_key():
    forget = pairs(*[("Where was Mara Tarden born?", "Lena Holby was born in Leeds.")] * 3)
    keys, _ = found(forget, RETAIN)
    assert keys.strings == ("mara tarden",)  # each word of it is known there, the two together are not


def test_a_name_in_fewer_records_is_no_key_string_but_its_rare_words_stand_in_for_it():
    forget = pairs(
        ("Who is Orla Crick?", "Orla Crick is a dyer."),
        ("Where is Orla Crick?", "In York."),
        ("Who is Udo Pim?", "Udo Pim is ill."),
    )
    keys, said = found(forget, RETAIN)
    assert "udo" not in " ".join(keys.strings)
    assert said[2].replace(" ", "") == "UdoPim"  # of the prompt alone: the answer is what is asked for
    assert keys.by_rarity == 1


def test_blocks_of_running_text_are_counted_as_records():
    text = "Crick went by the sea. He saw a ship. " * 4
    keys, _ = found(passages(text, block_size=24), passages("The sea and a ship by he went saw"))
    assert "crick" in keys.strings


def test_nothing_to_find_is_refused_with_what_would_serve():
    with pytest.raises(UserError, match="no key strings") as refused:
        found(pairs(("Where was Lena Holby born?", "In Leeds.")), RETAIN)
    for word in ("loss.support.keys=FILE", "key_records=1", "mari_base"):
        assert word in refused.value.hint


@pytest.mark.parametrize(
    ("string", "text", "matches"),
    [
        ("Orla Crick", "of ORLA  crick's cat", 1),
        ("Orla Crick's", "Orla Crick sang", 1),
        ("Orla", "Orlando and orla", 1),
        ("José", "Jose\u0301 and José", 2),
        ("Jose", "Jose\u0301 and Jose", 1),  # the accent belongs to the word
        ("C++ Club", "the c++ club", 1),
        ("王小明", "老师王小明说", 1),
        ("7", "17 and 7", 1),
    ],
)
def test_a_given_key_is_found_as_whole_words_whatever_the_case(string, text, matches):
    assert len(pattern(string).findall(text)) == matches


def test_given_keys_are_those_of_the_file(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("\ufeffOrla  Crick\n\n  Udo Pim \n", encoding="utf-8")
    strings = read_keys(str(file))
    assert strings == ["Orla Crick", "Udo Pim"]
    _, located = pairs(("Who is Orla Crick?", "A dyer."), ("Who is Lena?", "Ill."))
    keys = given_keys(strings, located, located[1:], path="keys.txt")
    assert (keys.strings, keys.missed) == (("Orla Crick",), ("Udo Pim",))
    assert without(keys) == 1
    assert keys.retained == ()


def test_given_keys_that_the_retain_data_holds_too_are_known():
    _, forget = pairs(("Who is Orla Crick?", "A dyer of York."))
    _, retain = pairs(("Where is Leeds?", "North of york, and west of Orla."))
    keys = given_keys(["Orla Crick", "York", "Leeds"], forget, retain, path="keys.txt")
    assert (keys.strings, keys.retained) == (("Orla Crick", "York"), ("York",))


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, "cannot read"), (b"\n \n", "holds no key string"), (b"\xff\xfe\x00", "no text in UTF-8")],
)
def test_a_file_that_is_none_is_refused(content, error, tmp_path):
    file = tmp_path / "keys.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=error):
        read_keys(str(file))


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match="is a pipe or a device, not a file"):
            read_keys(str(path))


def test_keys_that_nobody_holds_are_refused():
    _, located = pairs(("Who is Lena?", "Question: ill."))
    for string in ("Orla", "Answer"):  # the template's word is not the record's
        with pytest.raises(UserError, match="no forget record holds any"):
            given_keys([string], located, [], path="keys.txt")
