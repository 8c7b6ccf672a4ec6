"""Forget, retain and holdout corpora are refused where they do not fit together."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mari_cli.config import (
    CorpusConfig,
    FictionalCorpus,
    FileCorpus,
    ForgetFiles,
    Form,
    RetainConfig,
    RetainFictional,
    RetainFiles,
)
from mari_cli.data.corpora import Texts, load_corpora, split
from mari_cli.data.records import Fact, Record
from mari_cli.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
NOTHING = FileCorpus(name="none")


def texts(path: Path, words: str) -> str:
    """The path of a JSON lines file with one record a word."""
    path.write_text("".join(json.dumps({"text": word}) + "\n" for word in words.split()))
    return str(path)


def load(forget: CorpusConfig, retain: RetainConfig, holdout: CorpusConfig = NOTHING) -> Texts:
    return load_corpora(forget=forget, retain=retain, holdout=holdout)


def refused(forget: CorpusConfig, retain: RetainConfig, holdout: CorpusConfig = NOTHING) -> UserError:
    with pytest.raises(UserError) as caught:
        load(forget, retain, holdout)
    assert caught.value.hint, "a hint says what to do"
    return caught.value


def words(records: list[Record] | None) -> str:
    assert records is not None
    return " ".join(record.text for record in records)


def test_three_files_are_read(tmp_path: Path) -> None:
    found = load(
        ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a b")),
        RetainFiles(name="r", path=texts(tmp_path / "r.jsonl", "c d d")),
        FileCorpus(name="h", path=texts(tmp_path / "h.jsonl", "e")),
    )
    assert (words(found.forget), words(found.retain), words(found.holdout)) == ("a b", "c d d", "e")
    assert found.notes == ["the retain corpus repeats 1 record, and each copy counts"]


def test_corpora_that_contradict_or_repeat_each_other_in_another_spelling_are_told(tmp_path: Path) -> None:
    def pairs(name: str, *rows: tuple[str, str]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in rows))
        return str(path)

    found = load(
        ForgetFiles(name="f", path=pairs("f.jsonl", ("Who?", "Ann"), ("Where?", "Rome"))),
        RetainFiles(
            name="r",
            path=pairs("r.jsonl", ("who? ", "Bob"), ("WHERE?", "rome"), ("Why?", "So"), ("Where?", "Rome")),
            drop_overlap=True,
        ),
        FileCorpus(name="h", path=pairs("h.jsonl", ("Why?", "no"), ("How?", "so"))),
    )
    assert found.notes == [
        "the retain corpus repeats 1 record, and each copy counts",
        "dropped 1 record from the retain corpus that are forget records too",
        "the retain corpus has 1 record with a prompt of the forget corpus and another answer",
        "the retain corpus has 1 record of the forget corpus in another spelling "
        "(case, spaces, Unicode form, unseen characters)",
        "the holdout corpus has 1 record with a prompt of the retain corpus and another answer",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", "a b "), ("a\nb", "a\r\nb"), ("a b", "a\u00a0b"), ("\u00e9", "e\u0301"), ("fi", "\ufb01"),
     ("ab", "a\u200bb"), ("ab", "\ufeffab"), ("ab", "a\u00adb"), ("a b", "a\u2060 b"), ("5", "\uff15")],
)  # fmt: skip
def test_a_record_that_looks_the_same_in_two_corpora_is_told(one, other, tmp_path: Path) -> None:
    def written(name: str, text: str) -> str:
        rows = [{"text": text}, {"text": f"only in {name}"}]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    notes = load(
        ForgetFiles(name="f", path=written("f.jsonl", one)),
        RetainFiles(name="r", path=written("r.jsonl", other)),
        FileCorpus(name="h"),
    ).notes
    assert [note for note in notes if note.startswith("the retain corpus has 1 record of the forget corpus")]


def test_a_holdout_without_path_is_none(tmp_path: Path) -> None:
    forget = ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a"))
    assert load(forget, RetainFiles(name="r", path=texts(tmp_path / "r.jsonl", "b"))).holdout is None


def test_the_fictional_corpora_are_of_one_world() -> None:
    found = load(
        FictionalCorpus(name="fictional", people=20),
        RetainFictional(name="fictional", people=40),
        FictionalCorpus(name="fictional", people=20),
    )
    assert found.holdout is not None
    assert [len(found.forget), len(found.retain), len(found.holdout)] == [160, 320, 160]
    assert found.notes == []
    kept = {record.text for record in found.retain}
    for record in found.forget + found.holdout:
        assert (record.text in kept) or record.fact == Fact.unique


def test_too_few_retained_people_are_noted() -> None:
    forget, few = FictionalCorpus(name="f", people=20), RetainFictional(name="r", people=8)
    assert "may not state every shared fact" in load(forget, few).notes[0]
    assert load(FictionalCorpus(name="f", overlap=0), few).notes == []


def test_two_fictional_worlds_are_refused() -> None:
    error = refused(FictionalCorpus(name="f", seed=1), RetainFictional(name="r", seed=2))
    assert str(error) == "`forget.seed` is 1 and `retain.seed` is 2: two fictional worlds"
    holdout = FictionalCorpus(name="h", seed=3)
    assert "`holdout.seed` is 3" in str(
        refused(FictionalCorpus(name="f"), RetainFictional(name="r"), holdout)
    )


def test_shared_facts_that_no_retained_person_could_state_are_refused() -> None:
    error = refused(FictionalCorpus(name="f", overlap=0.75), RetainFictional(name="r", overlap=0.5))
    assert "`forget.overlap` is 0.75 but `retain.overlap` is 0.5" in str(error)
    assert error.hint == "set `retain.overlap=0.75` too"
    assert load(FictionalCorpus(name="f", overlap=0.25), RetainFictional(name="r", overlap=0.5)).notes == []


def test_a_missing_forget_corpus_is_refused(tmp_path: Path) -> None:
    retain = RetainFiles(name="r", path=texts(tmp_path / "r.jsonl", "a"))
    assert "`forget.path` is not set" in str(refused(ForgetFiles(name="f"), retain))


def test_a_missing_retain_corpus_names_both_ways_out(tmp_path: Path) -> None:
    error = refused(ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a")), RetainFiles(name="r"))
    assert str(error) == "there is no retain corpus: `retain.path` is not set"
    assert error.hint is not None
    assert "`retain.path`" in error.hint
    assert "`forget.fraction=0.1`" in error.hint
    error = refused(FictionalCorpus(name="f"), RetainFiles(name="r"))
    assert error.hint == "set `retain.path`, or choose `retain=fictional`"


# -- a share of one text -------------------------------------------------------------------------------------


def test_a_fraction_forgets_a_share_and_keeps_the_rest(tmp_path: Path) -> None:
    path = texts(tmp_path / "all.jsonl", " ".join(f"w{n:02}" for n in range(50)))
    found = load(ForgetFiles(name="f", path=path, fraction=0.1), RetainFiles(name="r"))
    assert len(found.forget) == 5
    assert sorted(words(found.forget + found.retain).split()) == [f"w{n:02}" for n in range(50)]
    assert words(found.retain).split() == sorted(words(found.retain).split()), "the order of the text stays"
    again = load(ForgetFiles(name="f", path=path, fraction=0.1), RetainFiles(name="r"))
    assert again == found
    other = load(ForgetFiles(name="f", path=path, fraction=0.1, fraction_seed=1), RetainFiles(name="r"))
    assert other.forget != found.forget


@given(
    numbers=st.lists(st.integers(0, 30), min_size=2),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_copies_of_a_record_are_never_split(numbers: list[int], fraction: float, seed: int) -> None:
    records = [Record(text=f"text {n}") for n in numbers]
    count = round(fraction * len(set(numbers)))
    if not 0 < count < len(set(numbers)):
        with pytest.raises(UserError, match="leaves nothing to"):
            split(records, fraction=fraction, seed=seed)
        return
    forget, retain = split(records, fraction=fraction, seed=seed)
    assert len({record.key for record in forget}) == count
    assert not {record.key for record in forget} & {record.key for record in retain}
    assert sorted(words(forget + retain)) == sorted(words(records))


def test_a_fraction_that_leaves_a_side_empty_is_refused(tmp_path: Path) -> None:
    path = texts(tmp_path / "all.jsonl", "a b c")
    error = refused(ForgetFiles(name="f", path=path, fraction=0.1), RetainFiles(name="r"))
    assert str(error) == "`forget.fraction=0.1` of 3 records leaves nothing to forget"
    error = refused(ForgetFiles(name="f", path=path, fraction=0.9), RetainFiles(name="r"))
    assert str(error) == "`forget.fraction=0.9` of 3 records leaves nothing to retain"


def test_a_fraction_beside_a_retain_corpus_is_refused(tmp_path: Path) -> None:
    forget = ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a b"), fraction=0.5)
    for retain in (RetainFiles(name="r", path=texts(tmp_path / "r.jsonl", "c")), RetainFictional(name="r")):
        assert "but there is another one" in str(refused(forget, retain))


@pytest.mark.skipif(not (SHARED / "data/books").is_dir(), reason="no books at ../shared/data/books")
def test_a_book_is_split_ten_to_ninety() -> None:
    book = SHARED / "data/books/alice.txt"
    found = load(ForgetFiles(name="f", path=str(book), fraction=0.1), RetainFiles(name="r"))
    assert 0.09 < len(found.forget) / (len(found.forget) + len(found.retain)) < 0.11
    assert sum(len(r.text.split()) for r in found.forget + found.retain) == len(book.read_text().split())


# -- records in two corpora ----------------------------------------------------------------------------------


def test_a_limit_keeps_the_first_records(tmp_path: Path) -> None:
    found = load(
        ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a b x"), limit=2),
        RetainFiles(name="r", path=texts(tmp_path / "r.jsonl", "c d x"), limit=2),
        FileCorpus(name="h", path=texts(tmp_path / "h.jsonl", "e f x"), limit=2),
    )
    assert (words(found.forget), words(found.retain), words(found.holdout)) == ("a b", "c d", "e f")
    fictional = load(FictionalCorpus(name="f", limit=3), RetainFictional(name="r", limit=5, form=Form.both))
    assert [len(fictional.forget), len(fictional.retain)] == [3, 5]


def test_shared_records_are_refused_with_their_number_and_dropped_on_demand(tmp_path: Path) -> None:
    forget = ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a b c"))
    path = texts(tmp_path / "r.jsonl", "c d a c")
    error = refused(forget, RetainFiles(name="r", path=path))
    assert str(error).startswith("the forget and retain corpora share 3 records")
    assert error.hint is not None
    assert "`retain.drop_overlap=true`" in error.hint
    found = load(forget, RetainFiles(name="r", path=path, drop_overlap=True))
    assert words(found.retain) == "d"
    assert found.notes == [
        "the retain corpus repeats 1 record, and each copy counts",
        "dropped 3 records from the retain corpus that are forget records too",
    ]
    only = RetainFiles(name="r", path=texts(tmp_path / "same.jsonl", "a b"), drop_overlap=True)
    assert "nothing is left to retain" in str(refused(forget, only))


@pytest.mark.parametrize(
    ("held", "corpus", "count"), [("b e", "forget", "1 record,"), ("c d e", "retain", "2 records,")]
)
def test_a_holdout_that_is_not_unseen_is_refused(held: str, corpus: str, count: str, tmp_path: Path) -> None:
    error = refused(
        ForgetFiles(name="f", path=texts(tmp_path / "f.jsonl", "a b")),
        RetainFiles(name="r", path=texts(tmp_path / "r.jsonl", "c d")),
        FileCorpus(name="h", path=texts(tmp_path / "h.jsonl", held)),
    )
    assert str(error) == f"the holdout and {corpus} corpora share {count} but holdout must be unseen"


@pytest.mark.skipif(not (SHARED / "data/tofu").is_dir(), reason="no TOFU at ../shared/data/tofu")
def test_forgetting_a_tenth_of_all_of_tofu_needs_drop_overlap() -> None:
    tofu = SHARED / "data/tofu"
    forget = ForgetFiles(name="tofu", path=str(tofu / "forget10.json"))
    holdout = FileCorpus(name="tofu", path=str(tofu / "holdout10.json"))
    everything = str(tofu / "full.json")
    assert "share 400 records" in str(refused(forget, RetainFiles(name="tofu", path=everything), holdout))
    dropped = load(forget, RetainFiles(name="tofu", path=everything, drop_overlap=True), holdout)
    published = load(forget, RetainFiles(name="tofu", path=str(tofu / "retain90.json")), holdout)
    assert dropped.retain == published.retain
