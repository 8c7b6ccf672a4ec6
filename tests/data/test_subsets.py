"""One subset of a benchmark: from a folder laid out as the hub's, or from the hub."""

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mari_cli.data.files import read_subset
from mari_cli.errors import UserError

ROWS = [{"text": "one", "n": 1}, {"text": "two", "n": 2}]


def read(path, subset: str, *fields: str, **where) -> list:
    return read_subset(str(path), subset, fields or ["text"], **where)


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("raw/forget.json", {"split": "forget"}),
        ("raw/forget.jsonl", {"split": "forget"}),
        ("raw.json", {"split": "forget"}),
        ("raw.json", {}),
        ("other.json", {"split": "forget", "alias": "other"}),
    ],
)
def test_a_folder_holds_a_subset_under_its_name(tmp_path, file, where):
    (tmp_path / "raw").mkdir()
    text = json.dumps(ROWS) if file.endswith("json") else "\n".join(json.dumps(row) for row in ROWS)
    (tmp_path / file).write_text(text)
    assert [row["text"] for row in read(tmp_path, "raw", **where)] == ["one", "two"]


def test_the_parts_of_a_file_are_read_in_order(tmp_path):
    for part, row in enumerate(ROWS):
        table = pyarrow.table({"text": [row["text"]]})
        pyarrow.parquet.write_table(table, tmp_path / f"raw-0000{part}-of-00002.parquet")
    assert read(tmp_path, "raw") == [{"text": "one"}, {"text": "two"}]


def test_a_subset_of_the_hub_is_asked_for_by_name_and_split(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [row["text"] for row in read("muse-bench/MUSE-News", "raw", split="forget")] == ["one", "two"]
    read("locuslab/TOFU", "forget10")
    assert asked == [
        (("muse-bench/MUSE-News", "raw"), {"split": "forget"}),
        (("locuslab/TOFU", "forget10"), {"split": "train"}),
    ]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (["text", "title"], "has no field `title`; it has `text`, `n`"),
        (["text", "late"], "has no field `late`"),
    ],
)
def test_a_field_that_is_not_there_is_refused(tmp_path, fields, error):
    (tmp_path / "raw.json").write_text(json.dumps(ROWS))
    with pytest.raises(UserError, match=error):
        read(tmp_path, "raw", *fields)


def test_a_field_that_a_later_record_lacks_is_refused(tmp_path):
    (tmp_path / "raw.json").write_text(json.dumps([*ROWS, {"n": 3}]))
    with pytest.raises(UserError, match=r"record 3 of `raw` in .* has no field `text`"):
        read(tmp_path, "raw")


def test_what_is_not_there_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match="there is no `raw/forget` in"):
        read(tmp_path, "raw", split="forget")
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere", "raw")
