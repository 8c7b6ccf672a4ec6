"""A corpus file that is damaged in any way gives records or a UserError of two lines, and nothing else."""

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mari_cli.config import FileCorpus
from mari_cli.data.files import SUFFIXES, read_files
from mari_cli.data.records import Record
from mari_cli.errors import UserError

ROWS = [
    {"prompt": "Où ?", "completion": 'Là-bas, "chez" elle.\nAu bord.'},
    {"prompt": "Who?", "completion": "Orla, the older."},
]
TALKS = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Orla."}]}] * 2


def sound(suffix: str, folder: Path) -> list[bytes]:
    """Files of that kind without any fault."""
    if suffix == ".txt":
        return ["Où ?\n\nLà-bas.\r\n\r\nEnd.".encode()]
    if suffix == ".csv":
        return ['prompt,completion\nWho?,"Orla, ""the""\nolder."\nOù ?,Là-bas\n'.encode()]
    if suffix == ".parquet":
        found = []
        for number, rows in enumerate((ROWS, TALKS)):
            path = folder / f"{number}.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            found.append(path.read_bytes())
            path.unlink()
        return found
    if suffix == ".json":
        return [json.dumps(rows, indent=1, ensure_ascii=False).encode() for rows in (ROWS, TALKS, ROWS[0])]
    return ["".join(f"{json.dumps(row)}\n" for row in rows).encode() for rows in (ROWS, TALKS)]


STRANGE = [
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b",", b";", b"[" * 50, b"{", b"\r", b"\n\n", b"\\ud800"),
    *(b"1e999", b"9" * 40, b"NaN", b"null", b"\\u0000", b"\xe2\x80\xa8"),
]


@st.composite
def damage(draw) -> tuple[str, int, int, bytes]:
    """What is done, where and how far (in thousandths of the file), and with which bytes."""
    how = draw(st.sampled_from(["cut", "put", "over", "out", "twice", "mixed", "recoded", "only"]))
    bytes_ = draw(st.binary(max_size=8) | st.sampled_from(STRANGE))
    return how, draw(st.integers(0, 1000)), draw(st.integers(0, 1000)), bytes_


def damaged(data: bytes, how: str, at: int, size: int, new: bytes) -> bytes:
    start = len(data) * at // 1000
    end = min(len(data), start + 1 + len(data) * size // 1000)
    match how:
        case "cut":
            return data[:start]
        case "put":
            return data[:start] + new + data[start:]
        case "over":
            return data[:start] + new + data[start + len(new) :]
        case "out":
            return data[:start] + data[end:]
        case "twice":
            return data[:end] + data[start:end] + data[end:]
        case "mixed":
            shuffled = list(data[start:end])
            random.Random(size).shuffle(shuffled)
            return data[:start] + bytes(shuffled) + data[end:]
        case "recoded":
            encoding = ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"][size % 5]
            return data.decode("utf-8", "replace").encode(encoding, "replace")
    return new * (size % 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(damage(), min_size=1, max_size=3), which=st.integers(0, 2))
@example(faults=[("only", 0, 0, b"")], which=0)
@example(faults=[("only", 0, 1, b"[" * 50_000)], which=0)
@example(faults=[("only", 0, 1, b"9" * 50_000)], which=0)
def test_a_damaged_file_gives_records_or_two_lines(suffix, faults, which, tmp_path):
    files = sound(suffix, tmp_path)
    data = files[which % len(files)]
    for how, at, size, new in faults:
        data = damaged(data, how, at, size, new)
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data)
    try:
        records = read_files(FileCorpus(name="damaged", path=str(path)), corpus="forget")[0]
    except UserError as error:
        refused, hint = str(error), error.hint
    else:
        refused = hint = None
    if refused:
        assert hint
        assert "\n" not in refused + hint
    else:
        assert records
        assert all(isinstance(record, Record) and record.text.strip() for record in records)
        assert not any("\0" in f"{record.prompt}{record.text}" for record in records)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_sound_file_gives_records(suffix, tmp_path):
    for data in sound(suffix, tmp_path):
        (tmp_path / f"sound{suffix}").write_bytes(data)
        assert read_files(FileCorpus(name="sound", path=str(tmp_path / f"sound{suffix}")), corpus="forget")[0]
