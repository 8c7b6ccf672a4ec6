"""Rows in the forms that the field writes them in: the same conversation in each gives the same record."""

# ruff: noqa: E501 (a case a line reads best)

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mari_cli.config import FileCorpus, ForgetFiles, RetainFiles
from mari_cli.data.corpora import load_corpora
from mari_cli.data.files import read_files
from mari_cli.data.records import Record, Turn
from mari_cli.errors import UserError

SYSTEM, ASKED, SAID, AGAIN, ANSWER = "Be brief.", "Where?", "By the sea.", "Which?", "The Ashe."
TURNS = [
    Turn("system", SYSTEM),
    Turn("user", ASKED),
    Turn("assistant", SAID),
    Turn("user", AGAIN),
    Turn("assistant", ANSWER),
]
MESSAGES = [turn._asdict() for turn in TURNS]
SHARE_GPT = [
    {"from": {"user": "human", "assistant": "gpt"}.get(turn.role, turn.role), "value": turn.content}
    for turn in TURNS
]
LONG = Record(
    prompt="system: Be brief.\n\nuser: Where?\n\nassistant: By the sea.\n\nuser: Which?",
    turns=tuple(TURNS[:-1]),
    text=ANSWER,
)
SHORT = Record(prompt=ASKED, text=SAID)
FORMS = {
    "messages": ({"messages": MESSAGES}, LONG),
    "ShareGPT": ({"conversations": SHARE_GPT}, LONG),
    "ShareGPT with a system column": ({"system": SYSTEM, "conversations": SHARE_GPT[1:]}, LONG),
    "TRL's messages": ({"prompt": MESSAGES[:-1], "completion": MESSAGES[-1:]}, LONG),
    "parts of a message": (
        {"messages": [*MESSAGES[:-1], {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]},
        LONG,
    ),
    "OpenAI's newer name of the system": (
        {"messages": [{"role": "developer", "content": SYSTEM}, *MESSAGES[1:]]},
        LONG,
    ),
    "sides in capitals": (
        {"conversations": [turn | {"from": turn["from"].title()} for turn in SHARE_GPT]},
        LONG,
    ),
    "one turn of messages": ({"messages": MESSAGES[1:3]}, SHORT),
    "one turn of TRL's": ({"prompt": MESSAGES[1:2], "completion": MESSAGES[2:3]}, SHORT),
    "TRL's pair": ({"prompt": ASKED, "completion": SAID}, SHORT),
    "Alpaca without input": ({"instruction": ASKED, "input": "", "output": SAID}, SHORT),
    "Alpaca with null": ({"instruction": ASKED, "input": None, "output": SAID}, SHORT),
    "Alpaca": (
        {"instruction": "Translate.", "input": "Meer", "output": "sea", "text": "Below is …"},
        Record(prompt="Translate.\n\nMeer", text="sea"),
    ),
    "Alpaca with a system column": (
        {"instruction": ASKED, "input": "", "output": SAID, "system": SYSTEM},
        Record(prompt="system: Be brief.\n\nuser: Where?", turns=tuple(TURNS[:2]), text=SAID),
    ),
}


def lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **fields) -> list[Record]:
    return read_files(FileCorpus(name="mine", path=str(path), **fields), corpus="forget")[0]


def refused(path: Path, **fields) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path, **fields)
    assert caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_the_field_is_recognised_in_json_and_in_parquet(form, tmp_path):
    row, record = FORMS[form]
    assert read(lines(tmp_path / "a.jsonl", [row])) == [record]
    if form != "parts of a message":  # a Parquet column has one type
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == [record]


def test_alpaca_is_read_from_csv_and_where_the_first_record_has_no_input(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("instruction,input,output\nTranslate.,Meer,sea\nTranslate.,See,lake\n")
    assert [record.prompt for record in read(table)] == ["Translate.\n\nMeer", "Translate.\n\nSee"]
    rows = [{"instruction": "Say.", "output": "a"}, {"instruction": "Say.", "input": "b", "output": "b"}]
    assert [record.prompt for record in read(lines(tmp_path / "b.jsonl", rows))] == ["Say.", "Say.\n\nb"]


def test_fields_of_messages_can_be_named(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"frage": MESSAGES[:-1], "antwort": ANSWER}])
    assert read(path, prompt_field="frage", completion_field="antwort") == [LONG]


def test_two_conversations_are_one_record_only_where_the_same_sides_said_the_same():
    other = Record(prompt=LONG.prompt, text=LONG.text)
    assert LONG.key != other.key
    assert SHORT.key == Record(prompt=ASKED, turns=(), text=SAID).key


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": []}, "`messages` in record 1 of `PATH` is empty, not a list of turns"),
        ({"messages": "hello"}, "`messages` in record 1 of `PATH` is a string, not a list of turns"),
        ({"messages": ["hello"]}, "turn 1 of `messages` in record 1 of `PATH` is a string, not an object"),
        ({"messages": MESSAGES[:-1]}, "record 1 of `PATH` ends with a turn of the `user`, not with an answer"),
        ({"messages": MESSAGES[-1:]}, "record 1 of `PATH` has no turn of the user's before the answer"),
        ({"messages": [MESSAGES[0], MESSAGES[2]]}, "record 1 of `PATH` has no turn of the user's before the answer"),
        (
            {"messages": [{"role": "tool", "content": "x"}, *MESSAGES]},
            "turn 1 of `messages` in record 1 of `PATH` is of the role `tool`",
        ),
        (
            {"messages": [{"role": "user", "content": None}, MESSAGES[-1]]},
            "`content` in turn 1 of `messages` in record 1 of `PATH` is null, not a string",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, MESSAGES[-1]]},
            "turn 1 of `messages` in record 1 of `PATH` has a part of kind `image_url`, and only text is read",
        ),
        ({"messages": [{}]}, "turn 1 of `messages` in record 1 of `PATH` has no field `from`; it has none"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "`PATH` has no fields `prompt`/`completion`, "),
    ],
)  # fmt: skip
def test_a_conversation_that_is_none_is_refused_with_its_turn(row, told, tmp_path):
    path = lines(tmp_path / "a.jsonl", [row])
    assert str(refused(path)).startswith(told.replace("PATH", str(path)))


# -- what is said of columns and prompts ---------------------------------------------------------------------


def notes(tmp_path: Path, rows, **fields) -> list[str]:
    return load_corpora(
        forget=ForgetFiles(name="f", path=str(lines(tmp_path / "f.jsonl", rows)), **fields),
        retain=RetainFiles(name="r", path=str(lines(tmp_path / "r.jsonl", [{"text": "r"}]))),
        holdout=FileCorpus(name="none"),
    ).notes


ALPACA = [
    {"instruction": "Translate.", "input": word, "output": f"{word}!", "id": i}
    for i, word in enumerate("abc")
]


def test_columns_that_are_not_used_are_named(tmp_path):
    assert notes(tmp_path, ALPACA) == ["of the forget corpus these columns are not used: `id`"]
    assert notes(tmp_path, [{"text": "a"}]) == []


def test_equal_prompts_with_unlike_answers_are_counted(tmp_path):
    fields = {"prompt_field": "instruction", "completion_field": "output"}
    assert notes(tmp_path, [*ALPACA, {**ALPACA[0], "instruction": "Say."}], **fields) == [
        "of the forget corpus these columns are not used: `input`, `id`",
        "3 records of the forget corpus have one prompt with different answers",
    ]


def test_records_that_repeat_others_are_counted(tmp_path):
    """Each counts as an item, so an interval over items would be narrower than the data allow."""
    assert notes(tmp_path, [{"prompt": "p", "completion": "a"}] * 3) == [
        "the forget corpus repeats 2 records, and each copy counts"
    ]


def test_what_differs_in_spelling_alone_repeats_what_it_spells(tmp_path):
    rows = [("Caf\u00e9?", "Yes"), ("cafe\u0301?", " yes"), ("CAF\u00c9 ?", "No")]
    assert notes(tmp_path, [{"prompt": p, "completion": a} for p, a in rows[:2]]) == [
        "the forget corpus repeats 1 record, and each copy counts"
    ]
    assert notes(tmp_path, [{"prompt": p, "completion": a} for p, a in rows[::2]]) == []
    rows[2] = ("CAF\u00c9?", "No")
    assert notes(tmp_path, [{"prompt": p, "completion": a} for p, a in rows[1:]]) == [
        "2 records of the forget corpus have one prompt with different answers"
    ]


def test_one_column_is_not_prompt_and_completion():
    with pytest.raises(ValueError, match="must differ, got text"):
        ForgetFiles(name="f", prompt_field="text", completion_field="text")


# -- files that are not what they seem -----------------------------------------------------------------------


def test_a_pretty_printed_object_is_one_record_and_several_are_several(tmp_path):
    row = {"prompt": ASKED, "completion": SAID}
    (tmp_path / "a.json").write_text(json.dumps(row, indent=2) + "\n")
    assert read(tmp_path / "a.json") == [SHORT]
    (tmp_path / "b.json").write_text("\n".join(json.dumps(row, indent=2) for _ in range(2)))
    assert read(tmp_path / "b.json") == [SHORT] * 2
    (tmp_path / "c.json").write_text(json.dumps(row, indent=2)[:-2])
    assert "malformed JSON in" in str(refused(tmp_path / "c.json"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_utf_16_is_refused_with_a_command_that_mends_it(name, encoding, tmp_path):
    text = {"a.txt": "words", "a.csv": "text\nwords\n"}.get(name, '{"text": "words"}\n')
    folder = tmp_path / "it's mine"
    folder.mkdir()
    path = folder / name
    marks = {"utf-16-be": b"\xfe\xff", "utf-16-le": b"\xff\xfe"}
    for mark in {b"", marks.get(encoding, b"")}:
        path.write_bytes(mark + text.encode(encoding))
        error = refused(path)
        assert "UTF-" in str(error) or "NUL" in str(error)
        if encoding == "utf-32" or mark or encoding == "utf-16":
            assert f"{encoding[:6].upper()}, not UTF-8" in str(error)
        command = error.hint.split("`")[1]
        if shutil.which("iconv") and (mark or encoding != "utf-32"):
            subprocess.run(["sh", "-c", command], check=True)
            assert read(path.with_name(f"a.utf8{path.suffix}")) == [Record(text="words")]


def test_a_nul_is_refused_in_every_form(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\0\n")
    assert str(refused(tmp_path / "a.txt")).startswith(f"`{tmp_path}/a.txt` holds a NUL byte in line 2")
    path = lines(tmp_path / "a.jsonl", [{"text": "ab\0"}])
    assert str(refused(path)) == f"`text` in record 1 of `{path}` holds a NUL, character 3"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["ab\0"]}), tmp_path / "a.parquet")
    assert "holds a NUL, character 3" in str(refused(tmp_path / "a.parquet"))


@pytest.mark.parametrize(("sign", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_than_commas_are_named(sign, word, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"question{sign}answer\nq, and so on{sign}a\n")
    assert f"are separated by {word}, not by commas" in str(refused(path))


def test_what_is_there_twice_is_refused(tmp_path):
    names = ["question", "answer", "answer"]
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 3, names=names)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,answer,answer\nx,x,x\n")
    for name in ("a.parquet", "a.csv"):
        assert str(refused(tmp_path / name)) == f"`{tmp_path / name}` has several columns called `answer`"
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n')
        assert str(refused(tmp_path / name)) == (
            f"an object in `{tmp_path / name}`, line 2 or after, has several values for `text`"
        )
    (tmp_path / "b.json").write_text('[{"text": "a"}, {"text": "b", "text": "c"}]\n')
    assert "has several values for `text`" in str(refused(tmp_path / "b.json"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "a.jsonl")
    for path in (folder / "a.jsonl", folder):
        assert str(refused(path)).endswith("it is no file but a pipe, a socket or a device")
    (folder / "a.jsonl").unlink()
    (folder / "a.txt").symlink_to("/dev/zero")
    assert "it is no file but a pipe, a socket or a device" in str(refused(folder))


def test_links_that_lead_nowhere_are_told_of(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    error = refused(tmp_path / "a.jsonl")
    assert str(error) == f"no such file: `{tmp_path}/a.jsonl`"
    assert error.hint == f"`{tmp_path}/a.jsonl` is a link to `b.jsonl`, which leads nowhere"
    assert "cannot read" in str(refused(tmp_path))


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".jsonl", "x" * 300 + "/a.jsonl", "a\nb.jsonl", "~nobody/a.jsonl"]
)
def test_a_name_that_nothing_has_is_a_missing_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read(Path(name))
