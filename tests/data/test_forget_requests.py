"""Requests that arrive one after another: who or what each names, and what is refused before a step."""

import json

import pytest

from mari_cli import launch
from mari_cli.data.corpora import Texts, load_corpora
from mari_cli.errors import UserError


def load(*overrides: str) -> Texts:
    config = launch.prepare(launch.Experiment("unlearn", list(overrides))).config
    return load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)


def refused(*overrides: str) -> UserError:
    with pytest.raises(UserError) as error:
        load(*overrides)
    assert error.value.hint
    return error.value


@pytest.fixture
def files(tmp_path):
    """a, b and c in one folder, three records each, and a retain corpus beside it."""

    def write(path, names):
        rows = [{"prompt": f"What is {name}?", "completion": f"It is {name}."} for name in names]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    (tmp_path / "asked").mkdir()
    for letter in "abc":
        write(tmp_path / "asked" / f"{letter}.jsonl", [f"{letter}{i}" for i in range(3)])
    write(tmp_path / "two of a.jsonl", ["a0", "a1", "z"])
    write(tmp_path / "rest.jsonl", [f"r{i}" for i in range(4)])
    write(tmp_path / "with b.jsonl", ["r0", "b1", "b2"])
    return tmp_path


def told(texts: Texts) -> list[tuple[str, int]]:
    return [(request.name, len(request.records)) for request in texts.requests]


def test_files_and_folders_are_requests_in_their_order(files):
    rest = f"retain.path={files}/rest.jsonl"
    expected = [("01-c", 3), ("02-a", 3)]
    texts = load(f"forget.requests=[{files}/asked/c.jsonl,{files}/asked/a.jsonl]", rest)
    assert told(texts) == expected
    assert len(texts.forget) == 6
    assert told(load(f"forget.requests={files}/asked", rest)) == [("01-a", 3), ("02-b", 3), ("03-c", 3)]
    both = load(
        f"forget.requests=[[{files}/asked/a.jsonl,{files}/asked/b.jsonl],{files}/asked/c.jsonl]", rest
    )
    assert told(both) == [("01-a-and-1-more", 6), ("02-c", 3)]
    cut = load("forget.requests=2", f"forget.path={files}/asked", rest)
    assert told(cut) == [("01-records-1-to-4", 4), ("02-records-5-to-9", 5)]


def test_numbers_in_names_of_a_folder_are_ordered_by_their_value(files):
    names = [
        "10.jsonl",
        "2.jsonl",
        "1.jsonl",
        "a10-b2.jsonl",
        "a2-b1.jsonl",
        "a10-b1.jsonl",
        "٣.jsonl",
        "².jsonl",
    ]
    (files / "numbered").mkdir()
    for name in names:
        (files / "numbered" / name).write_text(json.dumps({"text": f"of {name}"}) + "\n")
    requests = load(f"forget.requests={files}/numbered", f"retain.path={files}/rest.jsonl").requests
    found = [request.label for request in requests]
    assert found == ["1", "2", "٣", "10", "a2-b1", "a10-b1", "a10-b2", "²"]


def test_plain_text_is_a_request_and_is_not_cut_in_two(files):
    for name in ("one", "two"):
        (files / f"{name}.txt").write_text(f"A story of {name}.")
    texts = load(f"forget.requests=[{files}/one.txt,{files}/two.txt]", f"retain.path={files}/rest.jsonl")
    assert told(texts) == [("01-one", 1), ("02-two", 1)]
    assert len(texts.retain) == 4


def test_people_are_named_and_stay_whole():
    assert [count for _, count in told(load("forget.requests=4"))] == [40] * 4
    texts = load("forget.requests=[[Juno Dorner,otto  jorner],Pia Norford]")
    assert told(texts) == [("01-Juno-Dorner-and-1-more", 16), ("02-Pia-Norford", 8)]


def test_later_requests_are_retain_data_until_their_turn():
    first, last = (load("forget.requests=4", f"forget.request_number={number}") for number in (1, 4))
    assert (len(first.forget), len(first.retain)) == (40, 640 + 120)
    assert (len(last.forget), len(last.retain)) == (40, 640)
    alone = load("forget.requests=4", "forget.request_number=1", "forget.keep_later=false")
    assert len(alone.retain) == 640
    keys = {record.key for record in first.retain}
    assert not keys & {record.key for record in first.forget}
    # what was forgotten in an earlier request is nobody's retain data
    assert not {record.key for record in last.retain} & {record.key for record in first.forget}


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ("[{}/asked/a.jsonl,{}/asked/a.jsonl]", "requests `01-a` and `02-a` are the same"),
        ("[{}/asked/a.jsonl,{}/two of a.jsonl]", "share 2 records"),
        ("[{}/asked/a.jsonl,{}/asked]", "share 3 records"),
        ("[{}/asked/a.jsonl,{}/with b.jsonl]", "request `02-with-b` and the retain corpus share 1 record"),
        ("[{}/asked/a.jsonl,{}/asked/d.jsonl]", "request 2: no such file"),
        ("[{}/asked/a.jsonl,{}/empty.jsonl]", "request 2: the forget corpus is empty"),
        ("{}/nothing", "no requests in folder"),
        ("{}/nowhere/", "no such folder"),
        ("[]", "must be a list of files or names"),
        ("[[]]", "must be a list of files or names"),
        ("0", "must be at least 1"),
        ("true", "must be a list of files or names"),
    ],
)
def test_what_cannot_be_unlearned_in_turn_is_refused(files, requests, said):
    (files / "empty.jsonl").write_text("")
    (files / "nothing").mkdir()
    error = refused(
        f"forget.requests={requests.replace('{}', str(files))}", f"retain.path={files}/rest.jsonl"
    )
    assert said in str(error)


def test_a_name_that_matches_nobody_is_refused():
    assert "is called `Juno Dormer`" in str(error := refused("forget.requests=[Pia Norford,Juno Dormer]"))
    assert error.hint == "did you mean `Juno Dorner`?"
    assert "names somebody twice" in str(refused("forget.requests=[[Pia Norford,pia norford]]"))
    assert "requests `01-Pia-Norford` and `02-Pia-Norford`" in str(
        refused("forget.requests=[Pia Norford,Pia Norford]")
    )
    assert "more parts than there are fictional people" in str(refused("forget.requests=21"))


def test_somebody_of_the_retain_corpus_is_refused():
    from mari_cli.data.fictional import FIRST, person_name

    assert "stands in the retain corpus" in str(
        refused(f"forget.requests=[{person_name(0, FIRST['retain'] + 3)}]")
    )


def test_a_number_that_no_request_has_is_refused():
    assert "there are 4 requests" in str(refused("forget.requests=4", "forget.request_number=5"))
    assert "needs `forget.requests`" in str(refused("forget.request_number=1"))
    assert "needs `forget.requests`" in str(refused("gold=each")).replace(
        "forget.requests", "forget.requests"
    )
