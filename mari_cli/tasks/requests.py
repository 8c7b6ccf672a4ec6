"""`mari requests`: what was asked to be forgotten, which runs did it, and which models still hold it.

Of finished runs manifests alone are read: a run leads to the one that it started from by the hash of its
manifest, or by the weights that it began with. Of a run that has not ended its `config.yaml` says with which
model it begins, and `requests.json` which requests are still to come.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from mari_cli.errors import UserError, shell_path
from mari_cli.places import is_there, place
from mari_cli.storage import json_files
from mari_cli.storage.layout import CHECKPOINT, CONFIG, MANIFEST, REQUESTS, RUN
from mari_cli.storage.manifest import Types, read_manifest, require_types
from mari_cli.storage.run import Run
from mari_cli.storage.run_list import Status, list_runs

FINAL = ("unlearned", "model")
TYPES: dict[str, Types] = {
    "request": dict,
    "task": str,
    "created": str,
    "forget_records": list,
    "start": dict,
    "lineage": dict,
    "config": dict,
    "models": dict,
    "adapters": (dict, NoneType),
    "training": (dict, NoneType),
}
"""What is read of a manifest here."""


@dataclass(frozen=True)
class RequestLine:
    """What one run is to one request."""

    request: str
    run: str
    state: str
    """`unlearned`, `still holds it`, … with the reason."""
    when: str
    weights: str
    """First digits of the hash of the weights that the run left."""
    note: str


@dataclass(frozen=True)
class KnownRun:
    """A finished run and its manifest."""

    path: Path
    manifest: Mapping[str, Any]
    hashes: frozenset[str]
    """Of the manifests of all known runs."""

    @property
    def task(self) -> str:
        return str(self.manifest["task"])

    @property
    def ids(self) -> list[str]:
        return list(self.manifest["request"]["ids"])

    @cached_property
    def records(self) -> frozenset[str]:
        return frozenset(self.manifest["forget_records"])

    @property
    def start(self) -> str | None:
        """Weights of the model that it was given."""
        return self.manifest["start"]["weights"]  # type: ignore[no-any-return]

    @property
    def final(self) -> str | None:
        """Weights of the model that it left; None where it trained none."""
        if self.task in ("evaluate", "audit"):
            return None
        models = self.manifest["models"]
        return next((models[role] for role in FINAL if role in models), None)

    @property
    def unlearns(self) -> bool:
        training = self.manifest["training"]
        return self.task == "unlearn" and bool(training) and training["kept_step"] != 0

    @property
    def taught(self) -> frozenset[str]:
        """The forget records that it trained the model on."""
        corpora = self.manifest["config"].get("corpora")
        return self.records if self.task == "finetune" and corpora != "retain" else frozenset()

    @property
    def parent(self) -> str | None:
        """Hash of the manifest of the known run that it began with, by its own manifest."""
        named = self.manifest["lineage"].get("model", {}).get("manifest")
        return named if named in self.hashes else None

    def is_child_of(self, other: "KnownRun") -> bool:
        """By its manifest; where that names none, by weights, which several runs may have left."""
        by_weights = self.start is not None and self.start == other.final
        return self.parent == other.manifest["sha256"] if self.parent else by_weights

    @property
    def began(self) -> str:
        return f"`{self.path}` began with {'it' if self.parent else 'the same weights'}"


@dataclass(frozen=True)
class PendingRequest:
    """A request whose run has not ended, or has not begun."""

    id: str
    run: Path
    state: str
    begins_with: str | None
    """Path of the model that the run begins with; None where the run makes its model first."""
    records: frozenset[str] = frozenset()
    """Hashes of what is to be forgotten, where they are known."""
    created: str = ""
    note: str = ""

    def starts_from(self, other: KnownRun) -> bool:
        if self.begins_with is None:
            return False
        path = place(self.begins_with)
        run = path.parent if path.name == CHECKPOINT else path
        return run.exists() and other.path.exists() and run.samefile(other.path)


def requests(roots: Sequence[Path]) -> tuple[list[RequestLine], list[str]]:
    """A line for each run that has to do with a request, request by request; and what could not be read."""
    manifests: dict[Path, Mapping[str, Any]] = {}
    pending: list[PendingRequest] = []
    notes: list[str] = []
    for root in roots:
        for summary in list_runs(root):
            if not (summary.path / MANIFEST).is_file():
                if summary.status is Status.unfinished:
                    pending += _pending_in(summary.path)
                else:
                    notes.append(f"`{summary.path}` has no `{MANIFEST}`: nobody can tell what it did")
                continue
            try:
                manifest = read_manifest(summary.path)
                require_types(summary.path / MANIFEST, manifest, TYPES)
                if not _is_of_several(manifest["config"]):  # that has a run in it for each of them
                    manifests[summary.path] = manifest
            except UserError as error:
                notes.append(str(error))
    hashes = frozenset(manifest["sha256"] for manifest in manifests.values())
    known = [KnownRun(path, manifest, hashes) for path, manifest in manifests.items()]
    ids = dict.fromkeys([*(id for run in known for id in run.ids), *(one.id for one in pending)])
    return [line for id in ids for line in _of_request(id, known, [p for p in pending if p.id == id])], notes


def _of_request(
    id: str, known: Sequence[KnownRun], pending: Sequence[PendingRequest]
) -> Iterator[RequestLine]:
    """Its own runs first, then the models that came of them, then those that still hold what it is about."""
    own = [run for run in known if id in run.ids]
    for run in own:
        yield _line(id, run, _done(run))
    for one in pending:
        yield RequestLine(id, str(one.run), one.state, one.created, "", one.note)
    asked = [run for run in own if run.task == "unlearn"]
    cleared = [run for run in asked if run.unlearns]
    told = {run.path for run in own}
    holding = _holders(asked, pending, known)
    for run in asked:
        if not run.unlearns:  # its own line says so already
            holding.pop(run.path, None)
    for run in known:
        if run.path not in told and run.path not in holding and run.final:
            ancestor = next((other for other in cleared if _descends(run, other, known)), None)
            if ancestor:
                yield _line(id, run, f"made from `{ancestor.path}`, where it was unlearned")
    for run in known:
        if run.path in holding:
            yield _line(id, run, f"still holds it: {holding[run.path]}")
    # runs that did something else to a model that holds it: what such a run began with holds it too
    others = [run for run in known if run.path in holding and run.task == "unlearn"]
    seen: set[str] = set()
    for one in pending:
        model = one.begins_with
        if model is not None and model not in seen and not any(one.starts_from(run) for run in known):
            seen.add(model)
            yield RequestLine(id, model, f"still holds it: `{one.run}` begins with it", "", "", "")
    for run in [*asked, *others]:
        adapters = run.manifest["adapters"]
        if adapters:
            base = adapters["base"]
            yield RequestLine(
                id, str(base), f"still holds it: base of the adapters of `{run.path}`", "", "", ""
            )
        elif run.start and not run.parent:
            model = run.manifest["start"]["model"]
            gone = any(other.final == run.start for other in known) and not is_there(model or "")
            if model and not gone and model not in seen and run.manifest["models"].get("target") == run.start:
                seen.add(model)
                yield RequestLine(
                    id, str(model), f"still holds it: `{run.path}` began with it", "", run.start[:12], ""
                )


def _done(run: KnownRun) -> str:
    match run.task:
        case "unlearn" if run.unlearns:
            return f"unlearned ({run.manifest['loss']})"
        case "unlearn":
            return "not done: no step was kept, and the model is the one from before"
        case "finetune" if run.taught:
            return "taught: the model was trained on the data of the request"
        case "finetune":
            return "trained anew without it"
        case _:
            return "measured"


def _holders(
    asked: Sequence[KnownRun], pending: Sequence[PendingRequest], known: Sequence[KnownRun]
) -> dict[Path, str]:
    """By path, why a run's model holds what ``asked`` should have unlearned, and ``pending`` are to."""
    found: dict[Path, str] = {}
    removals = [(done.records, done.is_child_of, done.began) for done in asked]
    removals += [(one.records, one.starts_from, f"`{one.run}` begins with it") for one in pending]
    for records, starts_from, began in removals:

        def clears(run: KnownRun, records: frozenset[str] = records) -> bool:
            return run.unlearns and bool(records) and run.records >= records

        queue = []
        for run in known:
            if run.taught & records:
                queue.append((run, "it was trained on it"))
            elif run.final and starts_from(run):
                queue.append((run, began))
        while queue:
            run, why = queue.pop(0)
            if run.path in found or clears(run):
                continue
            found[run.path] = why
            queue += [
                (child, f"made from {'' if child.parent else 'the same weights as '}`{run.path}`")
                for child in known
                if child.final and child.is_child_of(run)
            ]
            if run.task == "unlearn":  # which adds nothing: what it began with holds it too
                queue += [(other, run.began) for other in known if run.is_child_of(other)]
    return found


def _descends(run: KnownRun, ancestor: KnownRun, known: Sequence[KnownRun]) -> bool:
    seen: set[Path] = set()
    queue = [run]
    while queue:
        here = queue.pop()
        if here.path in seen:
            continue
        seen.add(here.path)
        if here is not run and here is ancestor:
            return True
        queue += [other for other in known if other.final and here.is_child_of(other)]
    return False


def _line(id: str, run: KnownRun, state: str) -> RequestLine:
    note = run.manifest["request"]["note"] if id in run.ids else None
    created = str(run.manifest["created"])
    return RequestLine(id, str(run.path), state, created, (run.final or "")[:12], note or "")


def _is_of_several(config: Mapping[str, Any]) -> bool:
    """Whether a run unlearned several requests, one after another."""
    forget = config.get("forget")
    return (
        isinstance(forget, Mapping)
        and forget.get("requests") is not None
        and forget.get("request_number") is None
        and config.get("task") == "unlearn"
    )


def _pending_in(path: Path) -> list[PendingRequest]:
    """What a run that has not ended was asked to forget; of several requests, those that have no run yet."""
    try:
        config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        request = config.get("request") or {}
        created = str(Run(path).about().get("created", ""))
        note = str(request.get("note") or "")
        model = (config.get("model") or {}).get("path")
        if not _is_of_several(config):
            ids = [part.strip() for part in str(request.get("id") or "").split(",") if part.strip()]
            several = (path.parent / REQUESTS).is_file()
            state = f"pending: {_of_process(path.parent if several else path)}"
            state += "" if model else "; its target is trained first"
            of_turn = json_files.read_object(path.parent / REQUESTS)["requests"] if several else []
            records = frozenset(next((one["records"] for one in of_turn if one["run"] == path.name), []))
            return [PendingRequest(id, path, state, model, records, created, note) for id in ids]
        asked = json_files.read_object(path / REQUESTS)["requests"]
        begun = [one for one in asked if (path / one["run"] / RUN).is_file()]
        if begun:  # what the last of these leaves, or begins with where it has not ended
            last = path / begun[-1]["run"]
            begins = yaml.safe_load((last / CONFIG).read_text(encoding="utf-8"))["model"]["path"]
            model = str(last) if (last / MANIFEST).is_file() else begins
        state = f"pending: its run has not begun; {_of_process(path)}"
        state += "" if model else "; the target is trained first"
        return [
            PendingRequest(
                one["id"], path / one["run"], state, model, frozenset(one["records"]), created, note
            )
            for one in asked
            if one not in begun
        ]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError, UserError):
        return []


def _of_process(path: Path) -> str:
    """Whether the run at ``path`` is running."""
    try:
        with Run(path).held():
            return f"cut off, and `mari unlearn --resume {shell_path(path)}` goes on"
    except UserError:
        return "running"
