"""A sweep on disk: its jobs as they were composed, so that going on with it takes nothing but its directory.

`sweep.json` makes a directory a sweep. It holds the jobs, with the hash of each one's `jobs/N/config.yaml`,
the versions of what computes, and the hash of every file and folder that a job names: where any of it is
another when the sweep goes on, the jobs to come could not be compared with those that are done.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mari_cli.begun import refuse_changed, versions
from mari_cli.config import RunConfig, to_plain
from mari_cli.errors import UserError, shell_path
from mari_cli.launch.typed import is_path
from mari_cli.places import place
from mari_cli.storage import atomic, hashing, json_files
from mari_cli.storage.environment import version_of
from mari_cli.storage.layout import CONFIG, SWEEP
from mari_cli.storage.locks import hold
from mari_cli.storage.run import now, output_directory

JOBS = "jobs"
WRITTEN = ("out", "cache")
"""Paths of what a job makes."""
FIELDS = {"task": str, "launcher": list, "jobs": list, "versions": dict, "named": dict}
JOB = {"name": str, "varied": dict, "command": list, "sha256": str}
"""What `sweep.json` says, of the sweep and of each job."""


def refuse_existing(directory: Path) -> None:
    """Raise where something is in the place of a new sweep."""
    if not os.path.lexists(directory):
        return
    hint = "choose another with `out=`"
    if (directory / SWEEP).is_file():
        with hold_sweep(directory):  # refused where the sweep is going on
            hint = f"go on with the sweep in it: `mari sweep --resume {shell_path(directory)}`; or {hint}"
    raise UserError(f"output directory `{directory}` exists", hint)


def begin(
    directory: Path,
    *,
    task: str,
    command: Sequence[str],
    launcher: Sequence[str],
    jobs: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    configs: Sequence[RunConfig],
    search: Mapping[str, Any] | None = None,
) -> None:
    """Make the directory of a new sweep: with all that it is to be known by, or not at all.

    ``jobs``: `name` (of the run directory), `varied` and `command` of each; ``texts``: their configurations
    as YAML. ``launcher``: the overrides that choose it. ``search``: what is searched, where anything is; the
    jobs are its methods then, and ``configs`` all that name a file.
    """
    with output_directory(directory, refuse_existing) as scratch:
        entries = []
        for number, (job, text) in enumerate(zip(jobs, texts, strict=True)):
            file = scratch / JOBS / str(number) / CONFIG
            atomic.atomic_write_text(file, text)
            entries.append({**job, "sha256": hashing.file_hash(file)})
        about = {
            "schema_version": 1,
            "task": task,
            "command": command,
            "created": now(),
            "launcher": launcher,
            "versions": _versions(configs, search),
            "named": _hash_paths(configs),
            "jobs": entries,
            **({"search": search} if search else {}),
        }
        json_files.atomic_write_json(scratch / SWEEP, about)


def hold_sweep(directory: Path) -> AbstractContextManager[None]:
    """Nobody else may go on with the sweep as long as this lasts."""
    return hold(directory / SWEEP, f"sweep `{directory}`")


def read(directory: Path) -> dict[str, Any]:
    """What `begin` wrote; refused where it is no longer that."""
    if not (directory / SWEEP).is_file():
        raise UserError(
            f"`{directory}` is no sweep: it has no `{SWEEP}`", "give the directory that `mari sweep` made"
        )
    about = json_files.read_object(directory / SWEEP)
    if missing := _missing(about, FIELDS):
        raise json_files.damaged(directory / SWEEP, f"it has no `{missing}`")
    for number, job in enumerate(about["jobs"]):
        if not isinstance(job, dict) or _missing(job, JOB):
            raise json_files.damaged(directory / SWEEP, f"job {number} is not as it was written")
        file = job_directory(directory, number) / CONFIG
        if hashing.path_hash(file) != job["sha256"]:
            raise UserError(
                f"`{file}` is not what sweep `{directory}` was begun with",
                "a sweep goes on as it began: put the file back, or start a new sweep to change something",
            )
    return about


def job_directory(directory: Path, number: int) -> Path:
    """Where the configuration of a job is."""
    return directory / JOBS / str(number)


def require_same(directory: Path, about: Mapping[str, Any], configs: Sequence[RunConfig]) -> None:
    """Refuse to go on where what the jobs name, or what computes, is not what the sweep was begun with."""
    named, here = _hash_paths(configs), _versions(configs, about.get("search"))
    told = {path: "" if path in named else " (not found from this directory)" for path in about["named"]}
    changed = [f"what is in {path}{told[path]}" for path in told if named.get(path) != about["named"][path]]
    was = about["versions"]
    others = {name: (was.get(name), version) for name, version in here.items() if was.get(name) != version}
    refuse_changed(directory, "sweep", changed, others)


def _missing(about: Mapping[str, Any], fields: Mapping[str, type]) -> str | None:
    return next((name for name, kind in fields.items() if not isinstance(about.get(name), kind)), None)


def _versions(configs: Sequence[RunConfig], search: Mapping[str, Any] | None) -> dict[str, str]:
    """Of what computes, and of what chooses the trials of a search."""
    found = {name: version for config in configs for name, version in versions(config).items()}
    return {**found, "optuna": version_of("optuna") or "not installed"} if search else found


def _hash_paths(configs: Sequence[RunConfig]) -> dict[str, str]:
    """The hash of each file and folder that a configuration names."""
    found = {}
    for path in sorted({path for config in configs for path in _places(to_plain(config))}):
        checkpoint = place(path) / "checkpoint"  # a run stands for its model
        found[path] = hashing.path_hash(checkpoint if checkpoint.is_dir() else place(path))
    return found


def _places(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _places(value, f"{key}.")
        elif is_path(key) and key not in WRITTEN:
            named = value if isinstance(value, list) else [value]
            yield from (path for path in named if isinstance(path, str) and os.path.lexists(place(path)))
