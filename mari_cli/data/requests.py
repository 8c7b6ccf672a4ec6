"""The forget data as requests that arrive one after another: who or what each of them names.

`forget.requests` is a list of files, of folders or of people of the fictional archive; a folder whose entries
are the requests, in the order of their names; or a number, which cuts the forget corpus into equal parts.
What two requests share, or a request and the retain corpus, is refused here: a record that is forgotten once
cannot be forgotten again, and what comes back would be measured on data that somebody still keeps.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from mari_cli.config import CorpusConfig, FictionalCorpus, FileCorpus, ForgetConfig
from mari_cli.data.fictional import FIRST, Person, people, read_fictional, records
from mari_cli.data.files import read_files
from mari_cli.data.records import Record
from mari_cli.errors import UserError, counted, nearest
from mari_cli.places import in_order, is_there, place

LONGEST_LABEL = 60
"""Characters; a label names a directory."""


@dataclass(frozen=True)
class Request:
    """What one request asks to be forgotten."""

    number: int
    """Its place in the order, from 1."""
    label: str
    """What the user named: a file, a person, or which part of the forget corpus."""
    records: list[Record]

    @property
    def keys(self) -> set[str]:
        return {record.key for record in self.records}

    @property
    def name(self) -> str:
        """`02-letters`: its name in tables, reports and messages, and that of its run's directory."""
        return f"{self.number:02d}-{re.sub(r'[^a-zA-Z0-9_.=+-]+', '-', self.label).strip('-') or 'request'}"


def read_requests(forget: ForgetConfig, *, retain: CorpusConfig, notes: list[str]) -> list[Request]:
    """Every request of ``forget``, in order; ``notes`` grow where columns are not read.

    Raises UserError for a request that names nobody or nothing, and for two that share a record. ``retain``:
    the corpus in which a person may stand whom a request names.
    """
    named: list[tuple[str, list[Record]]]
    if isinstance(forget.requests, int):
        named = list(_parts(forget, forget.requests, notes))
    elif isinstance(forget, FictionalCorpus):
        called = [forget.requests] if isinstance(forget.requests, str) else forget.requests
        named = list(_of_people(forget, called, retain))
    else:
        assert isinstance(forget, FileCorpus), type(forget)
        named = list(_of_files(forget, _sources(forget.requests), notes))
    found = [
        Request(number, label[:LONGEST_LABEL], said[: forget.limit])
        for number, (label, said) in enumerate(named, start=1)
    ]
    for one, other in combinations(found, 2):
        _refuse_common(one, other)
    if forget.request_number is not None and forget.request_number > len(found):
        raise UserError(
            f"`forget.request_number` is {forget.request_number}, but there are "
            f"{counted(len(found), 'request')}",
            f"choose 1 to {len(found)}",
        )
    return found


def refuse_retained(requests: Sequence[Request], retain: Sequence[Record], *, drop: bool) -> None:
    """Raise UserError where the retain corpus holds records of a request, and they are not to be dropped."""
    kept = {record.key for record in retain}
    for request in requests:
        common = len(request.keys & kept)
        if common and not drop:
            raise UserError(
                f"request `{request.name}` and the retain corpus share "
                f"{counted(common, 'record')}: they cannot be forgotten and kept",
                "leave them out of the retain corpus with `retain.drop_overlap=true`",
            )


def _refuse_common(one: Request, other: Request) -> None:
    common = len(one.keys & other.keys)
    if not common:
        return
    who = f"requests `{one.name}` and `{other.name}`"
    if one.keys == other.keys:
        raise UserError(f"{who} are the same", "leave out one of the two")
    raise UserError(
        f"{who} share {counted(common, 'record')}",
        f"leave them out of `{other.name}`: when it comes they are forgotten already",
    )


# -- where they are ------------------------------------------------------------------------------------------


def _parts(forget: ForgetConfig, count: int, notes: list[str]) -> Iterator[tuple[str, list[Record]]]:
    """The forget corpus cut into ``count`` parts, as equal as can be; fictional people stay whole."""
    if isinstance(forget, FictionalCorpus):
        _require_parts(forget.people, count, "fictional people")
        every = read_fictional(forget, corpus="forget")
        each = len(every) // forget.people
        for first, last in _cuts(forget.people, count):
            yield f"people {first + 1} to {last}", every[first * each : last * each]
        return
    assert isinstance(forget, FileCorpus), type(forget)
    if forget.path is None:
        raise UserError(
            f"`forget.requests={count}` cuts the forget corpus into parts, and `forget.path` is not set",
            "set `forget.path`, or name the files: `forget.requests=[first.jsonl,second.jsonl]`",
        )
    every = _read(forget, forget.path, notes)
    _require_parts(len(every), count, "records")
    for first, last in _cuts(len(every), count):
        yield f"records {first + 1} to {last}", every[first:last]


def _require_parts(available: int, count: int, what: str) -> None:
    if count > available:
        raise UserError(
            f"`forget.requests={count}` asks for more parts than there are {what} ({available})",
            f"set `forget.requests` to at most {available}",
        )


def _cuts(total: int, count: int) -> Iterator[tuple[int, int]]:
    yield from pairwise(total * part // count for part in range(count + 1))


def _sources(requests: str | list[str | list[str]]) -> list[list[str]]:
    """The paths of each request. A folder stands for its entries: each file or folder in it is a request."""
    if not isinstance(requests, str):
        return [entry if isinstance(entry, list) else [entry] for entry in requests]
    folder = place(requests)
    if not is_there(folder):
        raise UserError(
            f"no such folder: `{requests}`",
            "`forget.requests` is a folder with a file for each request, or a list: "
            "`forget.requests=[first.jsonl,second.jsonl]`",
        )
    if not folder.is_dir():
        return [[requests]]
    entries = sorted((entry for entry in os.listdir(folder) if not entry.startswith(".")), key=in_order)
    if not entries:
        raise UserError(f"no requests in folder `{requests}`", "each file or folder in it is one request")
    return [[str(Path(requests) / entry)] for entry in entries]


def _of_files(
    forget: FileCorpus, requests: list[list[str]], notes: list[str]
) -> Iterator[tuple[str, list[Record]]]:
    for number, paths in enumerate(requests, start=1):
        try:
            said = [record for path in paths for record in _read(forget, path, notes)]
        except UserError as error:
            hint = error.hint and error.hint.replace("`forget.path`", f"request {number}")
            raise UserError(f"request {number}: {error}", hint) from error
        yield _label([Path(path).stem for path in paths]), said


def _read(forget: FileCorpus, path: str, notes: list[str]) -> list[Record]:
    alone: dict[str, Any] = {"path": path, "requests": None, "request_number": None}
    said, unused = read_files(replace(forget, **alone), corpus="forget")
    note = f"of the forget corpus these columns are not used: {', '.join(unused)}"
    if unused and note not in notes:
        notes.append(note)
    return said


def _label(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


# -- people of the archive -----------------------------------------------------------------------------------


def _of_people(
    forget: FictionalCorpus, requests: list[str | list[str]], retain: CorpusConfig
) -> Iterator[tuple[str, list[Record]]]:
    known = _people_by_name(forget, "forget")
    kept = _people_by_name(retain, "retain") if isinstance(retain, FictionalCorpus) else {}
    for number, entry in enumerate(requests, start=1):
        names = entry if isinstance(entry, list) else [entry]
        chosen = [_person_called(name, number, known, kept) for name in names]
        if len({person.id for person in chosen}) < len(chosen):
            raise UserError(f"request {number} names somebody twice", "leave out one of the two")
        yield _label([person.name for person in chosen]), records(chosen, forget.form)


def _people_by_name(config: FictionalCorpus, corpus: str) -> dict[str, Person]:
    some = people(first=FIRST[corpus], count=config.people, seed=config.seed, overlap=config.overlap)
    return {person.name.casefold(): person for person in some}


def _person_called(name: str, number: int, known: dict[str, Person], kept: dict[str, Person]) -> Person:
    asked = " ".join(name.split()).casefold()
    if asked in known:
        return known[asked]
    if asked in kept:
        raise UserError(
            f"request {number}: `{name}` stands in the retain corpus, and cannot be forgotten and kept",
            "name one of the forget people, or make the retain corpus smaller (`retain.people`)",
        )
    names = {key: person.name for key, person in known.items()}
    guess = nearest(asked, names)
    some = ", ".join(list(names.values())[:3])
    raise UserError(
        f"request {number}: nobody of the {counted(len(known), 'forget person', 'forget people')} is called "
        f"`{name}`",
        f"did you mean `{names[guess]}`?"
        if guess
        else f"the first of them are {some}; `forget.people` says how many there are",
    )
