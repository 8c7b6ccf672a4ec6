"""A run on disk: written atomically, finished once, and never written again.

A run directory stands alone. ``run.json`` (what was asked, when) makes a directory a run, ``result.json``
is written last and makes it a finished one; ``inputs.json`` holds what it was begun with. Everything in
between may be cut off at any byte: a file is either the old one or the new one, and ``metrics.jsonl`` loses
at most its last line. Standard library only.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import mari_cli
from mari_cli.errors import UserError
from mari_cli.places import LONGEST_NAME, longest_name

RUN, CONFIG, METRICS, RESULT, STATE = "run.json", "config.yaml", "metrics.jsonl", "result.json", "state"
"""Names inside a run directory; the state to resume from is removed when the run is finished."""
SWEEP = "sweep.json"
"""What makes a directory a sweep (sweeps.py)."""
INPUTS = "inputs.json"
"""What the run was begun with (begun.py): in the directory from its first moment on, and never changed."""

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "rouge-score",
    "lm_eval",
    "wandb",
    "hydra-core",
    "omegaconf",
)
"""Packages whose version can change a number."""

GIB = 1024**3


# -- atomic writes -------------------------------------------------------------------------------------------


class CannotWrite(UserError):
    """The disk does not take what is written to it. Whatever was there before is untouched."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        full = error.errno in FULL
        hint = "free some space" if full else "move it out of the way, or make it writable"
        super().__init__(f"cannot write `{path}`: {(error.strerror or str(error)).lower()}", hint)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, or quota, or file size limit."""
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
"""A directory, or a lock of the owner's, where a file should be."""


@contextmanager
def retold_disk_errors(path: Path) -> Iterator[None]:
    """Tell a full disk as the user's error; let any other OSError pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise CannotWrite(path, error) from error


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: a reader, or a crash at any moment, leaves the old file or the new."""
    with retold_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        try:
            with scratch.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException as error:
            scratch.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in IN_THE_WAY:
                raise CannotWrite(path, error) from error
            raise
    _sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """``atomic_write_bytes`` of UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """``atomic_write_text`` of standard JSON; a number that is not finite becomes null."""
    atomic_write_text(path, json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line; a number that is not finite becomes null."""
    return "".join(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


@contextmanager
def atomic_directory(
    path: Path, *, exists: Literal["refuse", "replace", "keep"] = "refuse"
) -> Iterator[Path]:
    """A directory to fill: it appears as ``path`` once the block ends well, and leaves nothing otherwise.

    Where there is a ``path`` already: ``refuse`` raises FileExistsError, ``replace`` puts the new one in its
    place, ``keep`` drops the new one (for caches, where whoever was first has written the same). If killed
    between its two renames, ``replace`` leaves the old one as ``.old-NAME``, which ``recover`` puts back.
    """
    if exists == "refuse" and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(path)
    with retold_disk_errors(path):
        try:
            scratch.mkdir()
            yield scratch
            for entry in [*scratch.rglob("*"), scratch]:
                if not entry.is_symlink():
                    _sync(entry)
            _move_in(scratch, path, exists)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    _sync(path.parent)


def _move_in(scratch: Path, path: Path, exists: str) -> None:
    if exists == "replace" and path.exists():
        old = path.with_name(f".old-{path.name}")
        if old.exists():  # left by an earlier kill after the new one was in place
            shutil.rmtree(old)
        os.rename(path, old)
        os.rename(scratch, path)
        shutil.rmtree(old)
        return
    try:
        os.rename(scratch, path)
    except OSError as error:
        if exists != "keep" or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(scratch)


def recover(directory: Path) -> None:
    """Clean up what killed writes left in ``directory``. Only while nobody else writes there."""
    for old in directory.glob(".old-*"):
        path = old.with_name(old.name.removeprefix(".old-"))
        if path.exists():
            remove(old)
        else:
            os.rename(old, path)
    for scratch in directory.glob(".tmp-*"):
        remove(scratch)


def remove(path: Path) -> None:
    """Take away a file, or a directory with all in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def held(file: Path, what: str) -> Iterator[None]:
    """Lock ``file``, whose owner is called ``what`` (as in "run `x`"); refused where another process has it.

    The lock is the system's: it ends with the process, however that ends, so that nothing stale can be left.
    A file system without locks lets everybody pass.
    """
    # over a network a lock takes a file that is open for writing; a run that is for reading needs none
    with file.open("rb+" if os.access(file, os.W_OK) else "rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{what} is running", "wait for its end, or stop it; a new one takes another `out=`"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield


def _scratch(path: Path) -> Path:
    """A new name next to ``path``, so that the rename stays within one file system."""
    return path.with_name(f".tmp-{secrets.token_hex(6)}")


def _sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite(value: Any) -> Any:
    """``value`` with NaN and infinities as null: JSON has no word for them, and others read it too."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def require_writable(path: Path, key: str) -> None:
    """Refuse a file to be written, given as ``key``, that is there already or could not be made."""
    try:
        if os.path.lexists(path):
            what = "is a directory" if path.is_dir() else "exists already"
            raise UserError(f"report `{path}` {what}", "choose a file that does not exist yet")
        longest = longest_name(path.absolute().parts)
        there = next(parent for parent in path.absolute().parents if parent.exists())
        if longest <= LONGEST_NAME and there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return
        reason = (
            "a name in it is too long"
            if longest > LONGEST_NAME
            else f"`{there}` is no directory"
            if not there.is_dir()
            else f"nothing may be written in `{there}`"
        )
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
    raise UserError(f"cannot write `{path}`: {reason}", f"choose another file with `{key}`")


def check_disk(path: Path, needed_bytes: int) -> None:
    """Refuse to start what the disk under ``path`` (which need not exist yet) cannot hold."""
    there = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise UserError(
            f"not enough disk space: `{path}` needs {_size(needed_bytes)}, {_size(free)} free",
            "free some space, or choose another disk with `out=` and `cache=`",
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB // 10 else f"{num_bytes / 1024**2:.1f} MiB"


# -- runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    writes: bool = True
    """False: another process writes the same, and what this one would write is left out."""

    @classmethod
    def create(
        cls,
        path: Path,
        config_yaml: str,
        *,
        command: Sequence[str],
        task: str = "",
        inputs: Mapping[str, Any] | None = None,
    ) -> "Run":
        """Begin a run in a directory that is not there yet; it appears with its config, and with the record
        of what it was begun with, or not at all."""
        path = Path(path)
        if os.path.lexists(path):
            raise _taken(path)
        about = {"schema_version": 1, "task": task, "command": list(command), "created": now()}
        try:
            with atomic_directory(path) as scratch:
                atomic_write_text(scratch / CONFIG, config_yaml)
                atomic_write_json(scratch / RUN, about)
                files = {name: file_hash(scratch / name) for name in (CONFIG, RUN)}
                content = {"files": files, **(inputs or {})}
                atomic_write_json(scratch / INPUTS, {"sha256": content_hash(content), **content})
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and os.path.lexists(path):
                raise _taken(path) from error  # somebody else was faster
            raise UserError(
                f"cannot make output directory `{path}`: {(error.strerror or str(error)).lower()}",
                "choose another `out=`",
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """A run to read from, finished or not."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"no run directory `{path}`", "`mari runs list` shows the runs there are")
        if not (path / RUN).is_file() or not (path / CONFIG).is_file():
            missing = RUN if not (path / RUN).is_file() else CONFIG
            raise UserError(
                f"`{path}` is no run directory: it has no `{missing}`",
                "`mari runs list` shows the runs there are",
            )
        return cls(path)

    @classmethod
    def unfinished(cls, path: Path) -> "Run":
        """A run that may go on: begun as its files say, and not finished. Nothing is changed."""
        run = cls.open(path)
        if run.finished:
            raise UserError(
                f"run `{path}` is finished, and a finished run is never written again",
                "start a new one with another `out=`",
            )
        if not (run.path / INPUTS).is_file():
            raise UserError(
                f"run `{path}` cannot go on: it has no `{INPUTS}`, the record of what it was begun with",
                "another version of mari began it: finish it with that one, or start a new run",
            )
        for name, sha256 in run.inputs()["files"].items():
            if file_hash(run.path / name) != sha256:
                raise UserError(
                    f"`{run.path / name}` is not what run `{path}` was begun with",
                    "a run goes on as it began: put the file back, or start a new run to change something",
                )
        return run

    @classmethod
    def resume(cls, path: Path) -> "Run":
        """A run to go on with: what killed writes left behind is cleaned up. Only while it is `held`."""
        run = cls.unfinished(path)
        recover(run.path)
        return run

    def held(self) -> AbstractContextManager[None]:
        """Nobody else may go on with the run as long as this lasts; refused where somebody does already."""
        return held(self.path / RUN, f"run `{self.path}`")

    @property
    def finished(self) -> bool:
        """Whether the result is there: it is written last."""
        return (self.path / RESULT).exists()

    def about(self) -> dict[str, Any]:
        """What was written at the beginning: task, command, created (UTC)."""
        return read_object(self.path / RUN)

    def inputs(self) -> dict[str, Any]:
        """What the run was begun with: the hashes of its `files`, and what begun.py adds to them."""
        content = read_object(self.path / INPUTS)
        if content.pop("sha256", None) != content_hash(finite(content)):
            raise damaged(self.path / INPUTS, "it is not as it was written")
        return content

    def result(self) -> dict[str, Any]:
        """``result.json`` of a finished run."""
        if not self.finished:
            raise UserError(
                f"run `{self.path}` is not finished: it has no `{RESULT}`",
                f"finish it with `--resume {self.path}`",
            )
        return read_object(self.path / RESULT)

    def write_text(self, name: str, text: str) -> Path:
        """Write one file of the run, atomically."""
        if self.writes:
            self._must_be_open()
            atomic_write_text(self.path / name, text)
        return self.path / name

    def write_json(self, name: str, value: Any) -> Path:
        """Write one file of the run as JSON, atomically; a number that is not finite becomes null."""
        if self.writes:
            self._must_be_open()
            atomic_write_json(self.path / name, value)
        return self.path / name

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, out of this process at return; what is not finite becomes null.

        Write the metrics of a step before the state to resume from at that step: ``truncate_metrics`` takes
        away what is too new, nothing brings back what was never there.
        """
        if not self.writes:
            return
        self._must_be_open()
        line = (json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = self.path / METRICS
        with retold_disk_errors(path), path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError:
                file.truncate(before)  # half a line would spoil the next
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill has cut off is left out."""
        return [record for _, record in self._metrics_lines()]

    def truncate_metrics(self, step: int) -> int:
        """Drop what came after ``step``, as the run goes on from there, and a last line that was cut off.

        Returns how many of the training steps until then have no line: some, where the file was damaged.
        """
        if not self.writes:
            return 0
        self._must_be_open()
        lines = [(line, record) for line, record in self._metrics_lines() if record.get("step", step) <= step]
        if (self.path / METRICS).exists():
            atomic_write_text(self.path / METRICS, "".join(f"{line}\n" for line, _ in lines))
        there = {record.get("step") for _, record in lines if record.get("kind") == "train"}
        return len(set(range(1, step + 1)) - there)

    def _metrics_lines(self) -> list[tuple[str, dict[str, Any]]]:
        path = self.path / METRICS
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise damaged(path, (error.strerror or str(error)).lower()) from error
        # bytes, as a cut may go through a character; not splitlines, as strings may hold other separators
        whole = content.removesuffix(b"\n").split(b"\n") if content else []
        lines = []
        for number, raw in enumerate(whole, start=1):
            try:
                record = json.loads(raw)
                text = raw.decode()
            except (ValueError, RecursionError) as error:
                if number == len(whole):  # cut off by a kill
                    break
                raise damaged(path, f"line {number} is not JSON") from error
            if not _is_metrics(record):
                raise damaged(path, f"line {number} is no object of a step and its numbers")
            lines.append((text, record))
        return lines

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json: from here on the run is finished, and the state to resume from is not needed."""
        if not self.writes:
            return
        self._must_be_open()
        atomic_write_json(self.path / RESULT, dict(result))
        shutil.rmtree(self.path / STATE, ignore_errors=True)

    def _must_be_open(self) -> None:
        assert not self.finished, f"run {self.path} is finished and must not be written again"


def refuse_existing(path: Path) -> None:
    """Raise early what ``Run.create`` would raise late."""
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> UserError:
    hint = "choose another `out=`"
    if (path / RUN).is_file() and not (path / RESULT).exists():
        with Run(path).held():  # refused where the run is going on
            hint += f", or go on with the unfinished run in it: `--resume {shlex.quote(str(path))}`"
    return UserError(f"output directory `{path}` exists", hint)


def _is_metrics(record: Any) -> bool:
    """Whether a line of metrics.jsonl is what a run writes there."""
    if not isinstance(record, dict) or not record:
        return False
    step = record.get("step", 0)
    plain = all(value is None or isinstance(value, str | int | float) for value in record.values())
    return plain and isinstance(step, int) and not isinstance(step, bool)


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; what else there is is refused as damaged."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise damaged(path, (error.strerror or str(error)).lower()) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(value, dict):
        raise damaged(path, "it is not a JSON object")
    return value


def damaged(path: Path, how: str) -> UserError:
    """What is told of a file that is not as a run wrote it."""
    return UserError(f"`{path}` is damaged: {how}", "restore the file, or start a new run")


# -- listing -------------------------------------------------------------------------------------------------


class Status(StrEnum):
    finished = "finished"
    unfinished = "unfinished"
    unreadable = "unreadable"  # its run.json or result.json is not what we wrote


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of `mari runs list`."""

    path: Path
    name: str
    task: str
    status: Status
    created: str
    """ISO 8601, UTC."""
    loss: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    """By full name, what is a number, of the model that the run ended with."""


def list_runs(root: Path) -> list[RunSummary]:
    """Every run under ``root``, oldest first; what is no run, or hidden, is passed over."""
    runs = []
    for directory, below, files in os.walk(root):
        if RUN in files and CONFIG in files:
            runs.append(_summary(Run(Path(directory))))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(runs, key=lambda run: (run.created, str(run.path)))


def _summary(run: Run) -> RunSummary:
    try:
        about = run.about()
        result = run.result() if run.finished else {}
        models = result.get("models", {})
        measured = models.get("unlearned", models.get("model", {})).get("metrics", {})
        return RunSummary(
            path=run.path,
            name=str(result.get("name", run.path.name)),
            task=str(result.get("task", about.get("task", ""))),
            status=Status.finished if run.finished else Status.unfinished,
            created=str(about.get("created", "")),
            loss=str(result.get("loss") or ""),
            metrics={
                name: value
                for name, estimate in measured.items()
                if isinstance(value := estimate.get("value"), int | float)
            },
        )
    except (UserError, OSError, AttributeError, KeyError, TypeError, RecursionError):  # not as we write it
        return RunSummary(path=run.path, name=run.path.name, task="", status=Status.unreadable, created="")


# -- what a result depends on --------------------------------------------------------------------------------


def environment(*, device: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a number may depend on besides config and data. No host, user or environment variable is named."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "mari": mari_cli.__version__,
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "git": _git_state(Path.cwd()),
        "device": dict(device) if device is not None else None,
    }


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of the project in ``directory``, and whether tracked files differ from it; None without one."""
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(directory: Path, *arguments: str) -> str | None:
    """Output of git, or None where git, or a repository, is not there."""
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def content_hash(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON: the order of keys does not matter, that of lists does."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_hash(path: Path) -> str:
    """SHA-256 over the names (relative, sorted) and contents of every file below ``path``."""
    names = sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*") if entry.is_file())
    return content_hash([[name, file_hash(path / name)] for name in names])


def path_hash(path: Path) -> str:
    """Of a file, or of a directory with all in it; of what is not there, too."""
    if path.is_dir():
        return directory_hash(path)
    return file_hash(path) if path.is_file() else content_hash(None)
