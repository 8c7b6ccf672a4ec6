"""A corpus from the user's own text: a file, a folder of files, or a data set of the Hugging Face hub.

What a `path` means, in this order: something that exists locally is that; a name of the form `owner/name`
is a data set of the hub; anything else is a file that is not there. Files are told apart by suffix alone
(`READERS`, `.txt`). A folder is read recursively in sorted order without its hidden files; a file of another
kind in it is refused rather than skipped, since text that was silently left out would be believed forgotten.

Every error names the corpus's own keys (`forget.text_field`), the file, and the record, counted from 1.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mari_cli import hub
from mari_cli.config import FileCorpus
from mari_cli.data.records import Record
from mari_cli.errors import UserError, nearest

RECOGNISED = (("prompt", "completion"), ("question", "answer"), (None, "text"))
"""(prompt field, text field) pairs that need no configuration, the first that is there counts."""

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Records as they lie in a file: `take` reads the named columns only, where the format can."""

    names: list[str]
    take: Callable[[list[str]], Iterable[Row]]


def read_files(config: FileCorpus, *, corpus: str) -> list[Record]:
    """Every record at `config.path`; ``corpus`` is the key it is configured under (`forget`, `retain`, …)."""
    assert config.path is not None, "a corpus without a path has nothing to read"
    path = Path(config.path).expanduser()
    if config.path and path.exists():  # an empty path would be the current folder
        files = _files(path)
        fields_named = config.text_field is not None or config.prompt_field is not None
        if fields_named and all(_suffix(file) == ".txt" for file in files):
            raise UserError(
                f"`{config.path}` is plain text and has no fields",
                f"leave out `{corpus}.text_field`, `{corpus}.prompt_field` and `{corpus}.completion_field`",
            )
        records = [record for file in files for record in _read_file(file, config, corpus=corpus)]
    elif _looks_like_path(config.path):
        raise UserError(f"no such file: `{config.path}`", _hint_missing(path))
    else:
        records = _records(_hub_table(config, corpus=corpus), config, source=config.path, corpus=corpus)
    if not records:
        raise UserError(
            f"the {corpus} corpus is empty: `{config.path}` holds no records",
            f"point `{corpus}.path` at a file with text in it",
        )
    return records


def read_subset(
    path: str,
    subset: str,
    fields: Sequence[str],
    *,
    key: str,
    split: str | None = None,
    alias: str | None = None,
) -> list[Row]:
    """Every row of one subset of a data set, with at least ``fields``.

    ``path``, configured under ``key``, is a hub data set, or a folder that holds the subset as a file of its
    name: `SUBSET/SPLIT.json` or `SUBSET.json` (or `ALIAS.json`), in any format there is a reader for. What
    the fields hold is for the caller to check.
    """
    named = f"{subset}/{split}" if split else subset
    folder = Path(path).expanduser()
    if path and folder.exists():
        names = [f"{subset}/{split}"] if split else []
        files = next(
            (found for name in [*names, subset, alias] if name and (found := _parts(folder, name))), []
        )
        if not files:
            raise UserError(
                f"there is no `{named}` in `{path}`",
                f"`{key}` is a hub data set, or a folder with its subsets as files: `{named}.json`",
            )
        tables = [_table(file) for file in files]
    elif _looks_like_path(path):
        raise UserError(f"no such folder: `{path}`", _hint_missing(folder))
    else:
        config = FileCorpus(path=path, subset=subset, split=split or "train")
        tables = [_hub_table(config, corpus=key.partition(".")[0])]
    for table in tables:
        for field in fields if table.names else ():  # an empty file has none
            if field not in table.names:
                raise UserError(
                    f"`{named}` in `{path}` has no field `{field}`; it has {_listed(table.names)}",
                    f"check `{key}`: it may hold another data set",
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
    """The file in ``folder`` that is called as the subset, whatever its format."""
    return next(iter(_parts(folder, subset)), None)


def _parts(folder: Path, name: str) -> list[Path]:
    """The file of that name, or the parts into which the hub cuts one: `NAME-00000-of-00002.parquet` …"""
    whole = [file for suffix in READERS if (file := folder / f"{name}{suffix}").is_file()]
    return whole[:1] or sorted(folder.glob(f"{name}-*-of-*.parquet"))


def _table(file: Path) -> Table:
    try:
        return READERS[_suffix(file)](file)
    except OSError as err:
        raise UserError(
            f"cannot read `{file}`: {err.strerror or err}", "check that the file may be read"
        ) from err


def passages(text: str, *, characters: int) -> list[str]:
    """Whole paragraphs (blank lines part them), joined until a passage has at least so many ``characters``.

    The last one may be shorter; no word is left out."""
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


def _looks_like_path(name: str) -> bool:
    return (
        Path(name).suffix.lower() in SUFFIXES
        or name.startswith((".", "/", "~"))
        or not HUB_NAME.fullmatch(name)
    )


def _hint_missing(path: Path) -> str:
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    similar = nearest(path.name, siblings)
    if similar is not None:
        return f"did you mean `{path.parent / similar}`?"
    return "give a file, a folder, or a hub data set as `owner/name`; paths start at the current directory"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if not file.is_dir())
        files = [f for f in inside if not any(part.startswith(".") for part in f.relative_to(path).parts)]
        if not files:
            raise UserError(f"no files in folder `{path}`", f"it should hold {_listed(SUFFIXES)} files")
    else:
        files = [path]
    for file in files:
        if _suffix(file) not in SUFFIXES:
            kind = f"files of kind `{file.suffix}`" if file.suffix else "files without a suffix"
            hint = f"convert it to one of {_listed(SUFFIXES)}"
            raise UserError(
                f"cannot read `{file}`: {kind} are not supported",
                f"{hint}, or move it out of `{path}`" if path.is_dir() else hint,
            )
    return files


# -- file formats --------------------------------------------------------------------------------------------


def _read_file(path: Path, config: FileCorpus, *, corpus: str) -> list[Record]:
    try:
        if _suffix(path) == ".txt":
            text = _decoded(path).replace("\r\n", "\n").replace("\r", "\n")
            return [Record(text=passage) for passage in passages(text, characters=config.passage_characters)]
        return _records(READERS[_suffix(path)](path), config, source=str(path), corpus=corpus)
    except OSError as err:
        raise UserError(
            f"cannot read `{path}`: {err.strerror or err}", "check that the file may be read"
        ) from err


def _decoded(path: Path) -> str:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise UserError(
            f"`{path}` is not UTF-8: byte 0x{data[err.start]:02x} in line {line}",
            f"convert it: `iconv -f WINDOWS-1252 -t UTF-8 {path}`, with the encoding it really has",
        ) from err


def _loaded(text: str, *, path: Path, first_line: int, hint: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as err:
        line = first_line + err.lineno - 1
        raise UserError(
            f"malformed JSON in `{path}`, line {line}, column {err.colno}: {err.msg}", hint
        ) from err
    except (
        ValueError,
        RecursionError,
    ) as err:  # a number of thousands of digits, brackets nested without end
        raise UserError(f"malformed JSON in `{path}`, line {first_line} or after: {err}", hint) from err


def _objects(values: Iterable[object], *, path: Path) -> Table:
    rows: list[Row] = []
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise UserError(
                f"record {number} of `{path}` is {_kind(value)}, not an object",
                'write every record as an object, like {"prompt": "…", "completion": "…"} or {"text": "…"}',
            )
        rows.append(value)
    return Table(names=list(rows[0]) if rows else [], take=lambda _: rows)


def _json_lines(path: Path) -> Table:
    # not str.splitlines: U+2028 and its like may stand unescaped inside a JSON string
    lines = enumerate(_decoded(path).split("\n"), start=1)
    hint = "one JSON object a line"
    return _objects(
        (_loaded(line, path=path, first_line=number, hint=hint) for number, line in lines if line.strip()),
        path=path,
    )


def _json(path: Path) -> Table:
    text = _decoded(path)
    if not text.lstrip().startswith("["):  # many data sets, TOFU among them, ship JSON lines as .json
        return _json_lines(path)
    hint = "a .json file holds a list of objects, or one object a line"
    values = _loaded(text, path=path, first_line=1, hint=hint)
    assert isinstance(values, list), "JSON that starts with a bracket is a list"
    return _objects(values, path=path)


def _csv(path: Path) -> Table:
    text = _decoded(path)
    previous = csv.field_size_limit(
        max(len(text), 1)
    )  # a cell may hold a chapter; the module's own limit is 128 KiB
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or [])
        rows = list(reader)
    except csv.Error as err:
        raise UserError(
            f"malformed CSV in `{path}`, line {reader.reader.line_num}: {err}", "quote cells as RFC 4180"
        ) from err
    finally:
        csv.field_size_limit(previous)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"`{path}` has several columns called {_listed(twice)}", "name every column once")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UserError(
                f"record {number} of `{path}` does not have the {len(names)} cells of the header",
                "quote cells that contain a comma, a quote or a line break",
            )
    return Table(names=names, take=lambda _: rows)


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
    except pyarrow.ArrowInvalid as err:
        raise UserError(
            f"`{path}` is not a Parquet file: {err}", "write it again, or name it by what it is"
        ) from err

    def take(columns: list[str]) -> Iterable[Row]:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows: list[Row] = file.read(columns=columns).to_pylist()
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


def _hub_table(config: FileCorpus, *, corpus: str, chosen: str | None = None) -> Table:
    """`datasets` is imported here only: nobody with a local file waits for it. ``chosen``: what to check
    where the data set has no such subset or split."""
    hub.settle()
    import datasets
    from datasets.exceptions import (
        DatasetNotFoundError,
        DatasetsError,
    )

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
    # the library tells of an unknown subset or split by ValueError, of a script by RuntimeError
    except (OSError, ValueError, RuntimeError, DatasetsError) as err:
        raise UserError(
            f"the hub data set `{name}` cannot be read: {_one_line(err)}",
            f"check {chosen or keys}, {local}",
        ) from err
    return Table(names=data.column_names, take=data.select_columns)


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()).rstrip(".")


# -- rows to records -----------------------------------------------------------------------------------------


def _records(table: Table, config: FileCorpus, *, source: str, corpus: str) -> list[Record]:
    if not table.names:
        return []
    prompt_field, text_field = _choose(table.names, config, source=source, corpus=corpus)
    columns = [text_field] if prompt_field is None else [prompt_field, text_field]
    records = []
    for number, row in enumerate(table.take(columns), start=1):
        where = f"record {number} of `{source}`"
        prompt = None if prompt_field is None else _words(row, prompt_field, where=where)
        records.append(Record(prompt=prompt, text=_words(row, text_field, where=where)))
    return records


def _choose(names: list[str], config: FileCorpus, *, source: str, corpus: str) -> tuple[str | None, str]:
    """(prompt field or None, text field): the configured ones, else the first recognised pair there is."""
    if config.text_field is None and config.completion_field is None:
        for prompt, text in RECOGNISED:
            if text in names and (prompt is None or prompt in names):
                return prompt, text
        raise UserError(
            f"`{source}` has no fields `prompt`/`completion`, `question`/`answer` or `text`; "
            f"it has {_listed(names)}",
            f"set `{corpus}.prompt_field` and `{corpus}.completion_field`, or `{corpus}.text_field`",
        )
    for key in ("prompt_field", "completion_field", "text_field"):
        field: str | None = getattr(config, key)
        if field is not None and field not in names:
            similar = nearest(field, names)
            raise UserError(
                f"`{source}` has no field `{field}`; it has {_listed(names)}",
                f"set `{corpus}.{key}` to " + (f"`{similar}`?" if similar else "one of those"),
            )
    text_field = config.text_field if config.text_field is not None else config.completion_field
    assert text_field is not None, "the schema lets prompt_field stand only beside completion_field"
    return config.prompt_field, text_field


def _words(row: Row, field: str, *, where: str) -> str:
    if field not in row:
        raise UserError(
            f"{where} has no field `{field}`; it has {_listed(row)}",
            "every record needs the fields of the first",
        )
    value = row[field]
    if not isinstance(value, str):
        raise UserError(
            f"`{field}` in {where} is {_kind(value)}, not a string", "write it as text, or leave it out"
        )
    if not value.strip():
        raise UserError(f"`{field}` in {where} is empty", "fill it in, or leave the record out")
    try:
        value.encode()
    except UnicodeEncodeError as err:  # JSON can escape half a surrogate pair, which is no character
        raise UserError(
            f"`{field}` in {where} is not valid Unicode: lone surrogate at character {err.start + 1}",
            "write the text as UTF-8, unescaped",
        ) from err
    return value


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
