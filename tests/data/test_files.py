"""A corpus of the user's own: every format gives the same records, every defect a clear error."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from mari_cli.config import FileCorpus
from mari_cli.data.files import passages, read_files
from mari_cli.data.records import Record
from mari_cli.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
ROWS = [
    {"prompt": "Who?", "completion": 'Orla, "the"\nolder.'},
    {"prompt": "Où ?", "completion": "Là-bas\u2028!"},
]
RECORDS = [Record(prompt=row["prompt"], text=row["completion"]) for row in ROWS]


def corpus(path: Path | str, **fields: object) -> FileCorpus:
    return FileCorpus(name="mine", path=str(path), **fields)  # type: ignore[arg-type]


def read(path: Path | str, **fields: object) -> list[Record]:
    return read_files(corpus(path, **fields), corpus="forget")[0]


def refused(path: Path | str, **fields: object) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path, **fields)
    assert caught.value.hint, "a hint says what to do"
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


def json_lines(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# -- what can be read ----------------------------------------------------------------------------------------


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    quoted = 'prompt,completion\r\nWho?,"Orla, ""the""\nolder."\r\nOù ?,Là-bas\u2028!\r\n'
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for path in (
        written(tmp_path / "a.jsonl", json_lines(ROWS)),
        written(tmp_path / "A.JSONL", json_lines(ROWS).replace("\n", "\r\n\r\n")),
        written(tmp_path / "bom.jsonl", b"\xef\xbb\xbf" + json_lines(ROWS).encode()),
        written(tmp_path / "a.json", json.dumps(ROWS, indent=2)),
        written(tmp_path / "lines.json", json_lines(ROWS)),
        written(tmp_path / "a.csv", quoted),
        tmp_path / "a.parquet",
    ):
        assert read(path) == RECORDS, path


def test_recognised_fields_are_taken_in_a_fixed_order(tmp_path: Path) -> None:
    everything = {"text": "t", "question": "q", "answer": "a", "prompt": "p", "completion": "c"}
    path = tmp_path / "a.jsonl"
    written(path, json_lines([everything]))
    assert read(path) == [Record(prompt="p", text="c")]
    del everything["prompt"]
    written(path, json_lines([everything]))
    assert read(path) == [Record(prompt="q", text="a")]
    del everything["answer"]
    written(path, json_lines([everything]))
    assert read(path) == [Record(text="t")]


def test_configured_fields_win_over_recognised_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "prompt,completion,body\np,c,b\n")
    assert read(path, text_field="body") == [Record(text="b")]
    assert read(path, prompt_field="body", completion_field="prompt") == [Record(prompt="b", text="p")]


def test_a_cell_may_hold_a_chapter(tmp_path: Path) -> None:
    chapter = "word " * 50_000
    assert read(written(tmp_path / "a.csv", f'text\n"{chapter}"\n')) == [Record(text=chapter)]


def test_plain_text_becomes_passages_of_whole_paragraphs(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.txt", "\r\nOne\r\nline.\r\n\r\n  \r\nTwo.\r\n\r\nThree is longer.\r\n\r\nEnd.\r\n"
    )
    assert read(path, passage_characters=12) == [
        Record(text="One\nline.\n\nTwo."),
        Record(text="Three is longer."),
        Record(text="End."),
    ]
    assert [record.text for record in read(path)] == ["One\nline.\n\nTwo.\n\nThree is longer.\n\nEnd."]


def test_passages_leave_no_word_out() -> None:
    text = "\n\n".join("word " * (n % 7 + 1) for n in range(100))
    found = passages(text, characters=60)
    assert " ".join(found).split() == text.split()
    assert all(len(passage) >= 60 for passage in found[:-1])


def test_a_folder_is_read_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    written(tmp_path / "b.jsonl", json_lines([{"text": "second"}]))
    written(tmp_path / "a" / "deep.txt", "first")
    written(tmp_path / "c.csv", "question,answer\nq,third\n")
    written(tmp_path / ".hidden.docx", b"\xff")
    written(tmp_path / ".git" / "config.docx", b"\xff")
    assert [record.text for record in read(tmp_path)] == ["first", "second", "third"]


def test_a_home_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "a.txt", "text")
    assert read("~/a.txt") == [Record(text="text")]


def test_a_local_folder_wins_over_a_hub_data_set_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "owner" / "name" / "a.txt", "mine")
    assert read("owner/name") == [Record(text="mine")]


@pytest.mark.skipif(not (SHARED / "data/tofu").is_dir(), reason="no TOFU at ../shared/data/tofu")
@pytest.mark.parametrize(("name", "count"), [("forget10", 400), ("retain90", 3600), ("holdout10", 400)])
def test_tofu_is_read_as_it_is_shipped(name: str, count: int) -> None:
    records = read(SHARED / f"data/tofu/{name}.json")
    assert len(records) == count
    assert all(record.prompt and record.text for record in records)


@pytest.mark.skipif(not (SHARED / "data/books").is_dir(), reason="no books at ../shared/data/books")
def test_a_folder_of_books_is_read_to_the_last_word() -> None:
    records = read(SHARED / "data/books")
    words = [
        word for book in sorted((SHARED / "data/books").glob("*.txt")) for word in book.read_text().split()
    ]
    assert [word for record in records for word in record.text.split()] == words
    assert len(records) > 1000


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path / "letters.jsonl", json_lines([{"text": "a"}]))
    error = refused(tmp_path / "leters.jsonl")
    assert str(error) == f"no such file: `{tmp_path}/leters.jsonl`"
    assert error.hint == f"did you mean `{tmp_path}/letters.jsonl`?"


@pytest.mark.parametrize(
    "path", ["nowhere.jsonl", "./nowhere", "nowhere", "a/b/c", "~/nowhere/at-all", "two words", ""]
)
def test_what_is_no_hub_name_is_a_missing_file(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(refused(path)) == f"no such file: `{path}`"


def test_an_unsupported_file_is_refused_alone_and_in_a_folder(tmp_path: Path) -> None:
    path = written(tmp_path / "letters.docx", b"PK")
    assert str(refused(path)) == f"cannot read `{path}`: files of kind `.docx` are not supported"
    written(tmp_path / "a.txt", "text")
    error = refused(tmp_path)
    assert str(path) in str(error)
    assert error.hint is not None
    assert "move it out" in error.hint
    written(tmp_path / "b" / "LICENSE", "text")
    assert "files without a suffix are not supported" in str(refused(tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n"),
        ("a.json", "[]"),
        ("a.json", ""),
        ("a.csv", ""),
        ("a.csv", "text\n"),
        ("a.txt", " \n\n "),
    ],
)
def test_an_empty_corpus_is_refused(name: str, text: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, text)
    assert str(refused(path)) == f"the forget corpus is empty: `{path}` holds no records"


def test_a_folder_that_may_not_be_read_is_refused_and_not_left_out(tmp_path: Path, monkeypatch) -> None:
    written(tmp_path / "all" / "a.jsonl", json_lines(ROWS))
    written(tmp_path / "all" / "private" / "b.jsonl", json_lines(ROWS))
    opened = os.scandir

    def closed(path: str) -> object:
        if Path(path).name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(os, "scandir", closed)
    error = refused(tmp_path / "all")
    assert str(error) == f"cannot read `{tmp_path}/all/private`: Permission denied"
    assert error.hint == "check that the folder may be read"


def test_an_empty_parquet_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "no files in folder" in str(refused(tmp_path / "folder"))
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    assert "the forget corpus is empty" in str(refused(path))


def test_a_missing_field_names_those_that_are_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "frage,antwort\na,b\n")
    error = refused(path)
    assert str(error).endswith(
        "has no fields `prompt`/`completion`, `question`/`answer`, `instruction`/`output`, `messages`, "
        "`conversations` or `text`; it has `frage`, `antwort`"
    )
    assert error.hint == "set `forget.prompt_field` and `forget.completion_field`, or `forget.text_field`"
    path = written(tmp_path / "b.jsonl", json_lines([{"body": "a", "title": "b"}]))
    error = refused(path, text_field="bodi")
    assert str(error) == f"`{path}` has no field `bodi`; it has `body`, `title`"
    assert error.hint == "set `forget.text_field` to `body`?"
    error = refused(path, prompt_field="title", completion_field="zzz")
    assert error.hint == "set `forget.completion_field` to one of those"


def test_a_field_that_a_later_record_lacks_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", json_lines([{"text": "a"}, {"txt": "b"}]))
    assert str(refused(path)) == f"record 2 of `{path}` has no field `text`; it has `txt`"


def test_fields_of_plain_text_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "text")
    assert str(refused(path, text_field="body")) == f"`{path}` is plain text and has no fields"


def test_malformed_json_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"\n')
    assert str(refused(path)) == f"malformed JSON in `{path}`, line 3, column 13: Expecting ',' delimiter"
    path = written(tmp_path / "a.json", '[\n {"text": "a"},\n {"text" "b"}\n]\n')
    assert str(refused(path)) == f"malformed JSON in `{path}`, line 3, column 10: Expecting ':' delimiter"
    for text in ('{"text": ' + "9" * 5000 + "}", "[" * 100_000):
        assert "malformed JSON" in str(refused(written(path, text)))


def test_json_that_is_no_object_is_refused_with_its_number(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '[{"text": "a"}, "b"]')
    assert str(refused(path)) == f"record 2 of `{path}` is a string, not an object"
    path = written(tmp_path / "a.jsonl", '[{"text": "a"}]\n')
    assert str(refused(path)) == f"record 1 of `{path}` is a list, not an object"
    assert refused(path).hint.endswith("a file that holds one list of them is named .json")


def test_malformed_csv_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for short_or_long in ("text,source\na,b\nc\n", "text,source\na,b\nc,d,e\n"):
        written(path, short_or_long)
        assert str(refused(path)) == f"record 2 of `{path}` does not have the 2 cells of the header"
    written(path, 'text\n"a\n')
    assert f"malformed CSV in `{path}`, line 2" in str(refused(path))
    written(path, "text,text\na,b\n")
    assert "several columns called `text`" in str(refused(path))


def test_a_file_that_only_claims_to_be_parquet_is_refused(tmp_path: Path) -> None:
    assert "is not a Parquet file" in str(refused(written(tmp_path / "a.parquet", "text\na\n")))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(3, "a number"), (None, "null"), (True, "a boolean"), (["a"], "a list"), ({}, "an object")],
)
def test_a_value_that_is_no_string_is_refused_with_record_and_field(
    value: object, kind: str, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "a.jsonl",
        json_lines([{"question": "q", "answer": "a"}, {"question": "q", "answer": value}]),
    )
    assert str(refused(path)) == f"`answer` in record 2 of `{path}` is {kind}, not a string"


def test_an_empty_prompt_or_completion_is_refused_with_its_record(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "prompt,completion\nq,a\nq, \n")
    assert str(refused(path)) == f"`completion` in record 2 of `{path}` is empty"
    path = written(tmp_path / "a.csv", 'prompt,completion\n"",a\n')
    assert str(refused(path)) == f"`prompt` in record 1 of `{path}` is empty"


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "one\ntwo\ncafé\n".encode("latin-1"))
    assert str(refused(path)) == f"`{path}` is not UTF-8: byte 0xe9 in line 3"


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "ab\\ud83d"}\n')
    assert (
        str(refused(path))
        == f"`text` in record 1 of `{path}` is not valid Unicode: lone surrogate at character 3"
    )


# -- the hub -------------------------------------------------------------------------------------------------


def test_a_hub_name_without_network_is_retold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    error = refused("locuslab/TOFU", subset="forget10")
    assert str(error).startswith(
        "`locuslab/TOFU` is no local file, and the Hugging Face hub cannot be reached for it"
    )
    assert error.hint == "check the name and the connection, or give a local path as `forget.path`"


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub on this machine that knows no data set, and answers so as the real one does."""

    class NothingHere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), NothingHere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", here)
    monkeypatch.setattr("mari_cli.hub._answers", lambda endpoint: True)  # this one does
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # tests/conftest.py has set both
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("empty_hub")
def test_an_unknown_hub_data_set_is_retold() -> None:
    error = refused("nobody/nothing")
    assert str(error).startswith(
        "`nobody/nothing` is no local file, and no data set of the hub that can be read"
    )
    assert error.hint is not None
    assert "`forget.path`" in error.hint


@pytest.fixture
def cached_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `datasets` leaves in its cache of owner/name, subset `small`: it can be read without network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = written(tmp_path / "a.jsonl", json_lines([{"question": "q", "answer": "a", "other": 1}]))
    datasets.load_dataset("json", data_files=str(rows), cache_dir=str(tmp_path / "built"))
    built = next((tmp_path / "built" / "json").glob("*/*/*/"))
    cached = tmp_path / "cache" / "owner___name" / "small" / "0.0.0" / built.name
    shutil.copytree(built, cached)
    (cached / "json-train.arrow").rename(cached / "name-train.arrow")
    info = json.loads((cached / "dataset_info.json").read_text())
    info |= {"dataset_name": "name", "config_name": "small"}
    (cached / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.usefixtures("cached_hub")
def test_a_hub_data_set_is_read_by_name_subset_and_split() -> None:
    assert read("owner/name", subset="small") == [Record(prompt="q", text="a")]
    assert "`owner/name` has no field `body`; it has `question`" in str(
        refused("owner/name", text_field="body")
    )


@pytest.mark.usefixtures("cached_hub")
def test_an_unknown_subset_or_split_is_retold() -> None:
    error = refused("owner/name", subset="large")
    assert "the hub data set `owner/name` cannot be read" in str(error)
    assert error.hint is not None
    assert "`forget.subset` (large)" in error.hint
    assert 'Unknown split "test"' in str(refused("owner/name", subset="small", split="test"))
