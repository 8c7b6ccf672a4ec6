"""`mari verify`: whether a run is what its manifest says, and what of that cannot be checked."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mari_cli.errors import UserError, counted, shell_path
from mari_cli.places import place
from mari_cli.storage.hashing import file_hash
from mari_cli.storage.json_files import read_object
from mari_cli.storage.layout import MANIFEST, RESULT, SIGNATURE, STATE
from mari_cli.storage.manifest import changes, read_manifest, require_types
from mari_cli.storage.run import Run

if TYPE_CHECKING:
    from mari_cli.config import RunConfig

REPORT = "report.html"
TYPES = {"task": str, "name": str, "metrics": dict, "lineage": dict, "code": dict}
"""What is read of a manifest here."""
ReadConfig = Callable[[Path], "RunConfig"]
"""The configuration of a run, from its directory."""


class CheckVerdict(StrEnum):
    holds = "holds"
    fails = "does not hold"
    unknown = "cannot be checked"
    left = "not checked"  # nobody asked for it, or there is nothing to check


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and why the verdict is what it is."""

    what: str
    verdict: CheckVerdict
    why: str


def verify(run: Path, *, key: Path | None = None, read_config: ReadConfig | None = None) -> list[Check]:
    """Check every file of ``run``, the manifest, its signature with the public ``key``, and the report.

    ``read_config``: with it the configuration of the run is read, and the run is done again, bit by bit.

    Raises UserError where there is nothing to check: no run, an unfinished one, one without a manifest.
    """
    run = place(run)
    if key and not key.is_file():
        raise UserError(f"no key at `{key}`", "`--key` takes the file of the public key")
    _require_finished(run)
    try:
        manifest = read_manifest(run)
        require_types(run / MANIFEST, manifest, TYPES)
    except UserError as error:
        if not (run / MANIFEST).is_file() or "format" in str(error):
            raise
        return [Check(MANIFEST, CheckVerdict.fails, "it is not as it was written")]
    changed = changes(run, manifest)
    found = [
        Check(MANIFEST, CheckVerdict.holds, f"every byte is as it was written; {manifest['sha256'][:16]}…")
    ]
    found += [Check(name, CheckVerdict.fails, why) for name, why in changed.items()]
    if not changed:
        files = counted(len(manifest["files"]), "file")
        found.append(Check("files", CheckVerdict.holds, f"the SHA-256 of {files} is that of the manifest"))
    found += [
        Check(f"{folder}/", CheckVerdict.left, "another program writes there after the end of a run")
        for folder in manifest["not_covered"]
    ]
    if (run / STATE).exists():
        why = "a finished run has none, unless a kill came just after its end; no hash of it is known"
        found.append(Check(f"{STATE}/", CheckVerdict.unknown, why))
    found.append(_check_signature(run, manifest, key))
    if not changed:
        found += [_check_numbers(run, manifest), _check_report(run, manifest)]
    found += _check_lineage(manifest)
    if read_config:
        found.append(
            Check("replay", CheckVerdict.unknown, "only a run whose files hold can be done again")
            if changed
            else _replay(run, read_config(run))
        )
    return found


def exit_code(checks: list[Check]) -> int:
    """0: all holds; 1: something does not; 2: something cannot be checked."""
    verdicts = {check.verdict for check in checks}
    return 1 if CheckVerdict.fails in verdicts else 2 if CheckVerdict.unknown in verdicts else 0


def _require_finished(run: Path) -> None:
    if (run / MANIFEST).is_file():  # that of a finished run, unless a kill came just after it
        finished = (run / RESULT).exists() or not (run / STATE).is_dir()
    else:
        finished = Run.open(run).finished
    if not finished:
        raise UserError(f"run `{run}` is not finished", f"finish it with `--resume {shell_path(run)}`")


def _check_signature(run: Path, manifest: Mapping[str, Any], key: Path | None) -> Check:
    from mari_cli.storage.signature import NotSigned, check_signature

    found = partial(Check, "signature")
    if manifest["signature"] is None:
        if key:
            return found(CheckVerdict.fails, "the run is not signed, and a key was given")
        why = "the run is not signed: anybody who may write here could make another manifest"
        return found(CheckVerdict.left, why)
    if key is None:
        return found(CheckVerdict.unknown, f"`{SIGNATURE}` is there, but no `--key` was given")
    if not (run / SIGNATURE).is_file():
        return found(CheckVerdict.fails, f"`{SIGNATURE}` is missing")
    try:
        check_signature(run / MANIFEST, run / SIGNATURE, key)
    except NotSigned as error:
        return found(CheckVerdict.fails, f"`{SIGNATURE}` is not by the owner of `{key}`: {error}")
    return found(CheckVerdict.holds, f"by the owner of `{key}`")


def _check_numbers(run: Path, manifest: Mapping[str, Any]) -> Check:
    """Whether the manifest says of the run what its files say."""
    from mari_cli.tasks.manifest import described_by_files, same

    said = described_by_files(run, read_object(run / RESULT))
    other = [f"`{name}`" for name, value in said.items() if not same(manifest.get(name), value)]
    if other:
        why = f"the manifest says otherwise than the files of {', '.join(other)}"
        return Check("numbers", CheckVerdict.fails, why)
    numbers = counted(sum(len(of_role) for of_role in manifest["metrics"].values()), "number")
    return Check("numbers", CheckVerdict.holds, f"{numbers} of `{RESULT}` stand in the manifest")


def _check_report(run: Path, manifest: Mapping[str, Any]) -> Check:
    """Whether the report shows the numbers of result.json: it is made anew, and the tables are compared."""
    from mari_cli.report.page import render
    from mari_cli.report.read import read_run
    from mari_cli.tasks.manifest import code_hash

    found = partial(Check, "report")
    if not (run / REPORT).is_file():
        return found(CheckVerdict.left, "the run has none")
    title = f"mari {manifest['task']}: {manifest['name']}"
    made, there = render([read_run(run)], title=title), (run / REPORT).read_text(encoding="utf-8")
    if list(_cells(made)) == list(_cells(there)):
        return found(CheckVerdict.holds, f"its tables, made anew from `{RESULT}`, are the same")
    if manifest["code"]["sha256"] != code_hash():
        return found(CheckVerdict.unknown, "another version of mari wrote it, and draws it otherwise")
    return found(CheckVerdict.fails, f"its numbers are not those of `{RESULT}`")


def _cells(page: str) -> Iterator[str]:
    """What stands in the tables and headlines of a report; figures depend on who draws them."""
    for match in re.finditer(r"<(td|th|p|li|h1|h2|h3)\b[^>]*>(.*?)</\1>", page, re.DOTALL):
        yield re.sub(r"<[^>]*>", "", match[2])


def _check_lineage(manifest: Mapping[str, Any]) -> list[Check]:
    found = []
    for key, origin in manifest["lineage"].items():
        run = Path(origin["run"])
        verdict, why = CheckVerdict.fails, f"`{run}` has another manifest than the one that is named"
        if not (run / MANIFEST).is_file():
            verdict, why = CheckVerdict.left, f"the run it is from is not at `{run}`"
        else:
            with suppress(UserError):
                if read_manifest(run)["sha256"] == origin["manifest"]:
                    verdict, why = CheckVerdict.holds, f"`{run}` has the manifest that is named"
        found.append(Check(f"lineage: {key}", verdict, why))
    return found


# -- doing it again ------------------------------------------------------------------------------------------


def _replay(run: Path, config: "RunConfig") -> Check:
    """Do the run again with an empty cache, in as many threads, and compare bits."""
    import torch

    from mari_cli.begun import versions
    from mari_cli.config import TrackerConfig
    from mari_cli.options import RunOptions
    from mari_cli.tasks.worker import load_task

    checked = partial(Check, "replay")
    environment, begun = read_object(run / "environment.json"), Run(run).inputs()
    if why := _not_here(environment, begun, versions(config)):
        return checked(CheckVerdict.unknown, why)
    with tempfile.TemporaryDirectory(prefix="mari-replay-") as scratch:
        out = Path(scratch) / "run"
        try:
            again = replace(
                config,
                out=str(out),
                cache=str(Path(scratch) / "cache"),
                request=replace(config.request, key=None),
                tracker=TrackerConfig(name="none"),
            )
        except ValueError as error:
            return Check("replay", CheckVerdict.unknown, f"this version refuses its settings: {error}")
        if threads := (environment.get("device") or {}).get("threads"):
            torch.set_num_threads(threads)
        try:
            load_task(config.task)(again, RunOptions(["mari", "verify", "--replay"]))
        except UserError as error:
            return checked(CheckVerdict.unknown, f"it cannot be done again: {error}")
        before, now = begun["contents"], Run(out).inputs()["contents"]
        if others := [name for name, sha256 in now.items() if before.get(name) != sha256]:
            return checked(CheckVerdict.unknown, f"other than at its begin: {', '.join(others)}")
        differing = list(_differing(run, out))
    if differing:
        return checked(CheckVerdict.fails, f"other bits: {', '.join(differing)}")
    return checked(CheckVerdict.holds, "done again, weights, items and results have the same bits")


def _not_here(
    environment: Mapping[str, Any], begun: Mapping[str, Any], versions: Mapping[str, str]
) -> str | None:
    """Why the run cannot be done again on this machine."""
    device = (environment.get("device") or {}).get("device")
    if device not in (None, "cpu"):
        return f"it ran on {device}, which does not give the same bits twice"
    if environment.get("processes", 1) != 1:
        return f"it ran in {environment['processes']} processes"
    before = begun["values"]
    pairs = [(name, before.get(name), now) for name, now in versions.items()]
    other = [f"{name} was {was}, is {now}" for name, was, now in pairs if was != now]
    return f"other versions: {', '.join(other)}" if other else None


def _differing(run: Path, again: Path) -> Iterator[str]:
    """Files of ``run`` whose content another time is another; of result.json what was measured."""
    weights = sorted(path.name for path in (run / "checkpoint").glob("*.safetensors"))
    for name in ("items.jsonl", "examples.json", "data.json", *(f"checkpoint/{name}" for name in weights)):
        ours, theirs = run / name, again / name
        if ours.is_file() and not (theirs.is_file() and file_hash(ours) == file_hash(theirs)):
            yield f"`{name}`"
    if read_object(run / RESULT)["models"] != read_object(again / RESULT)["models"]:
        yield f"`{RESULT}`"
