"""A corpus from the user's own text: a file, a folder of files, or a data set of the Hugging Face hub.

A `path` that exists is a local file or folder; another one of the form `owner/name` is a data set of the hub;
every other one is a missing file. The suffix alone gives the format of a file (`READERS`, `.txt`). A folder
is read recursively in sorted order, without hidden files. A file of an unknown format in a folder is refused,
because the user would believe that the text of a skipped file was forgotten.

Every error names the keys of the corpus (`forget.text_field`), the file, and the record, counted from 1.
"""

import codecs
import csv
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mari_cli import hub
from mari_cli.config import FileCorpus
from mari_cli.data.forms import TableRow, form_of, kind, listed
from mari_cli.data.records import Record
from mari_cli.errors import UserError, counted, nearest, shell_path
from mari_cli.places import files_inside, is_there, place

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a file. `take` reads only the named columns, where the format allows this."""

    names: list[str]
    take: Callable[[list[str]], Iterable[TableRow]]


def read_files(config: FileCorpus, *, corpus: str) -> tuple[list[Record], list[str]]:
    """Every record at `config.path`, and the names of the columns that were not read. ``corpus`` is the
    section of the configuration (`forget`, `retain`, …). Raises UserError for input that cannot be read."""
    assert config.path is not None, "a corpus without a path has nothing to read"
    path = place(config.path)
    if config.path and is_there(path):  # an empty path would be the current folder
        with _readable(path):
            files = _files(path)
        fields_named = config.text_field is not None or config.prompt_field is not None
        if fields_named and all(_suffix(file) == ".txt" for file in files):
            raise UserError(
                f"`{config.path}` is plain text and has no fields",
                f"leave out `{corpus}.text_field`, `{corpus}.prompt_field` and `{corpus}.completion_field`",
            )
        parts = [_read_file(file, config, corpus=corpus) for file in files]
    else:
        refuse_missing(config.path)
        parts = [_records(_hub_table(config, corpus=corpus), config, source=config.path, corpus=corpus)]
    records = [record for found, _ in parts for record in found]
    if not records:
        raise UserError(
            f"the {corpus} corpus is empty: `{config.path}` holds no records",
            f"point `{corpus}.path` at a file with text in it",
        )
    return records, list(dict.fromkeys(name for _, unused in parts for name in unused))


def read_subset(
    path: str, subset: str, fields: Sequence[str], *, split: str | None = None, alias: str | None = None
) -> list[TableRow]:
    """Every row of one subset of a data set, with at least ``fields``, whose values the caller must check.

    ``path``, the value of `suite.path`, is a hub data set, or a folder with a file of the subset's name:
    `SUBSET/SPLIT.json`, `SUBSET.json` or `ALIAS.json`, in any format of `READERS`. Raises UserError for a
    subset that is missing or lacks a field.
    """
    named = f"{subset}/{split}" if split else subset
    folder = place(path)
    if path and is_there(folder):
        names = [f"{subset}/{split}"] if split else []
        files = next(
            (found for name in [*names, subset, alias] if name and (found := _parts(folder, name))), []
        )
        if not files:
            raise UserError(
                f"there is no `{named}` in `{path}`",
                f"`suite.path` is a hub data set, or a folder with its subsets as files: `{named}.json`",
            )
        tables = [read_table(file) for file in files]
    elif looks_like_path(path):
        raise UserError(f"no such folder: `{path}`", _hint_missing(folder))
    else:
        config = FileCorpus(path=path, subset=subset, split=split or "train")
        tables = [_hub_table(config, corpus="suite")]
    for table in tables:
        for field in fields if table.names else ():  # an empty file has no fields
            if field not in table.names:
                raise UserError(
                    f"`{named}` in `{path}` has no field `{field}`; it has {listed(table.names)}",
                    "check `suite.path`: it may hold another data set",
                )
    rows = [row for table in tables for row in table.take(list(fields))]
    for number, row in enumerate(rows, start=1):
        if missing := [field for field in fields if field not in row]:
            raise UserError(
                f"record {number} of `{named}` in `{path}` has no field `{missing[0]}`",
                "every record needs the fields of the first",
            )
    return rows


def subset_file(folder: Path, subset: str) -> Path | None:
    """The file in ``folder`` with the name of the subset, in any format; None where there is none."""
    return next(iter(_parts(folder, subset)), None)


def _parts(folder: Path, name: str) -> list[Path]:
    """The file ``name``, or the parts into which the hub cuts a file: `NAME-00000-of-00002.parquet` …"""
    whole = [file for suffix in READERS if (file := folder / f"{name}{suffix}").is_file()]
    return whole[:1] or sorted(folder.glob(f"{name}-*-of-*.parquet"))


def read_table(file: Path, suffix: str | None = None) -> Table:
    """The rows of ``file``, read as a file with ``suffix``. Raises UserError."""
    with _readable(file):
        return READERS[suffix or _suffix(file)](file)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Inside, an error of the system in reading ``path`` becomes a UserError."""
    try:
        yield
    except OSError as err:
        refused = Path(err.filename or path)
        what = "folder" if refused.is_dir() else "file"
        raise UserError(
            f"cannot read `{refused}`: {err.strerror or err}", f"check that the {what} may be read"
        ) from err


def passages(text: str, *, characters: int) -> list[str]:
    """Whole paragraphs, separated by blank lines, joined until a passage has at least ``characters``.

    The last passage may be shorter; no word is left out."""
    found: list[str] = []
    joined = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        joined = f"{joined}\n\n{paragraph}" if joined else paragraph
        if len(joined) >= characters:
            found.append(joined)
            joined = ""
    return [*found, joined] if joined else found


# -- which files ---------------------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def looks_like_path(name: str) -> bool:
    return (
        Path(name).suffix.lower() in SUFFIXES
        or name.startswith((".", "/", "~"))
        or not HUB_NAME.fullmatch(name)
    )


def refuse_missing(path: str) -> None:
    """Raise UserError where nothing is at ``path``, and it is no name of a data set of the hub either."""
    if looks_like_path(path) and not (path and is_there(path)):  # an empty path is the current folder
        raise UserError(f"no such file: `{path}`", _hint_missing(place(path)))


def _hint_missing(path: Path) -> str:
    if os.path.islink(path):
        return f"`{path}` is a link to `{os.readlink(path)}`, which leads nowhere"
    can_list = os.access(path.parent, os.R_OK) and os.path.isdir(path.parent)
    if similar := nearest(path.name, os.listdir(path.parent) if can_list else []):
        return f"did you mean `{path.parent / similar}`?"
    return "give a file, a folder, or a hub data set as `owner/name`; paths start at the current directory"


def _files(path: Path) -> list[Path]:
    files = sorted(files_inside(path)) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no files in folder `{path}`", f"it should hold {listed(SUFFIXES)} files")
    for file in files:
        if _suffix(file) not in SUFFIXES:
            kind = f"files of kind `{file.suffix}`" if file.suffix else "files without a suffix"
            hint = f"convert it to one of {listed(SUFFIXES)}"
            raise UserError(
                f"cannot read `{file}`: {kind} are not supported",
                f"{hint}, or move it out of `{path}`" if path.is_dir() else hint,
            )
        if not stat.S_ISREG(file.stat().st_mode):  # reading from a pipe might never end
            raise UserError(
                f"cannot read `{file}`: it is no file but a pipe, a socket or a device",
                "write its text into a file",
            )
    return files


# -- file formats --------------------------------------------------------------------------------------------


def _read_file(path: Path, config: FileCorpus, *, corpus: str) -> tuple[list[Record], list[str]]:
    with _readable(path):
        if _suffix(path) == ".txt":
            text = _read_text(path).replace("\r\n", "\n").replace("\r", "\n")
            found = passages(text, characters=config.passage_characters)
            return [Record(text=passage) for passage in found], []
        return _records(READERS[_suffix(path)](path), config, source=str(path), corpus=corpus)


ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # stands before the mark of UTF-16, because it begins with that mark
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Encodings by the byte order mark at the start of a file."""


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    for mark, encoding in ENCODINGS.items():
        if data.startswith(mark):
            raise UserError(f"`{path}` is {encoding}, not UTF-8", _convert(path, encoding))
    data = data.removeprefix(codecs.BOM_UTF8)
    if (at := data.find(b"\0")) >= 0:
        wide = "UTF-16LE" if at % 2 else "UTF-16BE"
        raise UserError(
            f"`{path}` holds a NUL byte in line {data.count(NEWLINE, 0, at) + 1}, which no text has",
            f"where it is UTF-16, {_convert(path, wide)}; else take it out",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        line = data.count(NEWLINE, 0, err.start) + 1
        raise UserError(
            f"`{path}` is not UTF-8: byte 0x{data[err.start]:02x} in line {line}",
            f"{_convert(path, 'WINDOWS-1252')}, with the encoding it really has",
        ) from err


NEWLINE = b"\n"


def _convert(path: Path, encoding: str) -> str:
    """A hint with a shell command that converts ``path`` to UTF-8."""
    new = path.with_name(f"{path.stem}.utf8{path.suffix}")
    return f"convert it: `iconv -f {encoding} -t UTF-8 {shell_path(path)} > {shell_path(new)}`"


class DuplicateKey(ValueError):
    """A JSON object has a key twice."""


def each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of ``pairs``, as a hook of json's decoder. Raises DuplicateKey, with the key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(next(name for name in names if names.count(name) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=each_once)


def _parse_json(
    text: str, *, path: Path, hint: str, first_line: int = 1, start: int | None = None
) -> tuple[object, int]:
    """The JSON value that begins at ``start``, and the index after its end; None: all of ``text`` is one."""
    try:
        return (_DECODER.decode(text), len(text)) if start is None else _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as err:
        line = first_line + err.lineno - 1
        raise UserError(
            f"malformed JSON in `{path}`, line {line}, column {err.colno}: {err.msg}", hint
        ) from err
    except DuplicateKey as err:
        line = first_line + text.count("\n", 0, start or 0)
        raise UserError(
            f"an object in `{path}`, line {line} or after, has several values for `{err}`",
            "give every key one value",
        ) from err
    except (ValueError, RecursionError) as err:  # a number with thousands of digits, deeply nested brackets
        raise UserError(f"malformed JSON in `{path}`, line {first_line} or after: {err}", hint) from err


def _skip_blank(text: str, start: int) -> int:
    """The end of JSON's white space that begins at ``start``."""
    match = BLANK.match(text, start)
    assert match is not None
    return match.end()


BLANK = re.compile(r"[ \t\r\n]*")


def _objects(values: Iterable[object], *, path: Path) -> Table:
    rows: list[TableRow] = []
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise UserError(
                f"record {number} of `{path}` is {kind(value)}, not an object",
                'write every record as an object, like {"prompt": "…", "completion": "…"} or {"text": "…"}; '
                "a file that holds one list of them is named .json",
            )
        rows.append(value)
    return Table(names=list(dict.fromkeys(name for row in rows for name in row)), take=lambda _: rows)


def _json_lines(path: Path) -> Table:
    # str.splitlines would also split at U+2028 and others, which a JSON string may hold unescaped
    lines = enumerate(_read_text(path).split("\n"), start=1)
    hint = "one JSON object a line"
    values = (
        _parse_json(line, path=path, hint=hint, first_line=number)[0]
        for number, line in lines
        if line.strip()
    )
    return _objects(values, path=path)


def _json(path: Path) -> Table:
    """A list of objects, or JSON lines, because many data sets (TOFU for example) name JSON lines .json."""
    hint = "a .json file holds a list of objects, or objects one after another"
    text, values = _read_text(path), list[object]()
    at = _skip_blank(text, 0)
    while at < len(text):
        value, end = _parse_json(text, path=path, hint=hint, start=at)
        values.append(value)
        at = _skip_blank(text, end)
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    return _objects(values, path=path)


def _csv(path: Path) -> Table:
    text = _read_text(path)
    # a cell may hold a chapter, but the default limit of the csv module is 128 KiB
    previous = csv.field_size_limit(max(len(text), 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or [])
        _refuse_other_separators(names, path)
        rows = list(reader)
    except csv.Error as err:
        raise UserError(
            f"malformed CSV in `{path}`, line {reader.reader.line_num}: {err}", "quote cells as RFC 4180"
        ) from err
    finally:
        csv.field_size_limit(previous)
    _refuse_doubles(names, path)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UserError(
                f"record {number} of `{path}` does not have the {counted(len(names), 'cell')} of the header",
                "quote cells that contain a comma, a quote or a line break",
            )
    return Table(names=names, take=lambda _: rows)


def _refuse_other_separators(names: Sequence[str], path: Path) -> None:
    separators = {";": "semicolons", "\t": "tabs", "|": "bars"}
    found = [word for sign, word in separators.items() if len(names) == 1 and sign in names[0]]
    if found:
        raise UserError(
            f"the cells of `{path}` are separated by {found[0]}, not by commas: its header is {names[0]!r}",
            "save it as CSV with commas, or as JSON lines",
        )


def _refuse_doubles(names: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"`{path}` has several columns called {listed(twice)}", "name every column once")


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    unreadable = (
        *(pyarrow.ArrowException, ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError),
        OSError,  # pyarrow raises this for a damaged page
    )

    def damaged(err: Exception) -> Exception:
        if isinstance(err, OSError) and err.errno is not None:  # an error of the system, not of pyarrow
            return err
        return UserError(
            f"`{path}` is not a Parquet file: {_one_line(err)}", "write it again, or name it by what it is"
        )

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
    except unreadable as err:
        raise damaged(err) from err
    _refuse_doubles(names, path)

    def take(columns: list[str]) -> Iterable[TableRow]:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                rows: list[TableRow] = file.read(columns=columns).to_pylist()
        except unreadable as err:
            raise damaged(err) from err
        return rows

    return Table(names=names, take=take)


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
SUFFIXES = (*READERS, ".txt")


# -- the hub -------------------------------------------------------------------------------------------------


def _hub_table(config: FileCorpus, *, corpus: str) -> Table:
    """A data set of the hub. `datasets` is imported only here, because the import is slow."""
    hub.settle()
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    name, local = config.path, f"or give a local path as `{corpus}.path`"
    keys = f"`{corpus}.subset` ({config.subset}) and `{corpus}.split` ({config.split})"
    try:
        data = datasets.load_dataset(name, config.subset, split=config.split)
    except DatasetNotFoundError as err:
        raise UserError(
            f"`{name}` is no local file, and no data set of the hub that can be read: {_one_line(err)}",
            f"check the name, log in with `hf auth login` if it is private or gated, {local}",
        ) from err
    except ConnectionError as err:
        raise UserError(
            f"`{name}` is no local file, and the Hugging Face hub cannot be reached for it: {_one_line(err)}",
            f"check the name and the connection, {local}",
        ) from err
    # `datasets` raises ValueError for an unknown subset or split, and RuntimeError for a script
    except (OSError, ValueError, RuntimeError, DatasetsError) as err:
        raise UserError(
            f"the hub data set `{name}` cannot be read: {_one_line(err)}", f"check {keys}, {local}"
        ) from err
    return Table(names=data.column_names, take=data.select_columns)


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()).rstrip(".")


# -- rows to records -----------------------------------------------------------------------------------------


def _records(table: Table, config: FileCorpus, *, source: str, corpus: str) -> tuple[list[Record], list[str]]:
    """The records of ``table``, and the columns that were not read."""
    if not table.names:
        return [], []
    form = form_of(table.names, config, source=source, corpus=corpus)
    rows = enumerate(table.take(list(form.columns)), start=1)
    records = [form.record(row, f"record {number} of `{source}`") for number, row in rows]
    return records, [name for name in table.names if name not in form.columns]
