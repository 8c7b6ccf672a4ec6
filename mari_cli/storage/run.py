"""A run on disk: written atomically, and never changed after its end.

``run.json`` (command and time) makes a directory a run. ``inputs.json`` identifies the inputs of the run.
``result.json`` is written last and makes the run finished. After a kill at any moment each file is the whole
old one or the whole new one, and ``metrics.jsonl`` loses at most its last line. Standard library only.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mari_cli.errors import UserError, reason_of, shell_path
from mari_cli.storage.atomic import atomic_directory, atomic_write_text, recover, retold_disk_errors
from mari_cli.storage.hashing import content_hash, file_hash
from mari_cli.storage.json_files import atomic_write_json, damaged, finite, json_text, read_object
from mari_cli.storage.layout import CHECKPOINT, CONFIG, INPUTS, METRICS, RESULT, RUN, STATE
from mari_cli.storage.locks import hold
from mari_cli.storage.manifest import write_manifest


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    writes: bool = True
    """False: this process writes nothing, because another process writes the same."""

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
        """Begin a run in a new directory, which appears together with its config and its inputs. Raises
        UserError where ``path`` exists or cannot be made."""
        about = {"schema_version": 1, "task": task, "command": list(command), "created": now()}
        with output_directory(path, refuse_existing) as scratch:
            atomic_write_text(scratch / CONFIG, config_yaml)
            atomic_write_json(scratch / RUN, about)
            files = {name: file_hash(scratch / name) for name in (CONFIG, RUN)}
            content = {"files": files, **(inputs or {})}
            atomic_write_json(scratch / INPUTS, {"sha256": content_hash(content), **content})
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """A run for reading, finished or not. Raises UserError where ``path`` is no run."""
        if not path.is_dir():
            raise UserError(f"no run directory `{path}`", "`mari runs list` shows the runs there are")
        if missing := next((name for name in (RUN, CONFIG) if not (path / name).is_file()), None):
            raise UserError(
                f"`{path}` is no run directory: it has no `{missing}`",
                "`mari runs list` shows the runs there are",
            )
        return cls(path)

    @classmethod
    def unfinished(cls, path: Path) -> "Run":
        """A run that can be resumed; nothing is written. Raises UserError for a finished or changed run."""
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
        """Open a run for resuming, and clean up after killed writes. The caller must hold the lock `held`."""
        run = cls.unfinished(path)
        recover(run.path)
        return run

    def held(self) -> AbstractContextManager[None]:
        """A lock on the run, so that only one process resumes it; UserError where the lock is taken."""
        return hold(self.path / RUN, f"run `{self.path}`")

    @property
    def finished(self) -> bool:
        """Whether the result exists, which is written last."""
        return (self.path / RESULT).exists()

    def about(self) -> dict[str, Any]:
        """The content of run.json: task, command, created (UTC)."""
        return read_object(self.path / RUN)

    def inputs(self) -> dict[str, Any]:
        """The inputs of the run: the hashes of its first `files`, and the inputs that begun.py adds."""
        content = read_object(self.path / INPUTS)
        if content.pop("sha256", None) != content_hash(finite(content)):
            raise damaged(self.path / INPUTS, "it is not as it was written")
        return content

    def result(self) -> dict[str, Any]:
        """``result.json`` of a finished run."""
        if not self.finished:
            raise UserError(
                f"run `{self.path}` is not finished: it has no `{RESULT}`",
                f"finish it with `--resume {shell_path(self.path)}`",
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
        return self.write_text(name, json_text(value))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; a number that is not finite becomes null.

        The metrics of a step must be written before the state of this step: ``truncate_metrics`` can remove
        metrics that are too new, but nothing can restore missing ones.
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
                file.truncate(before)  # without this the next line would be appended to half a line
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without a last line that a kill has cut off."""
        return [record for _, record in self._metrics_lines()]

    def truncate_metrics(self, step: int) -> int:
        """Drop the lines after ``step``, from which the run resumes, and a last line that was cut off.

        Returns the number of training steps up to ``step`` without a line: more than 0 in a damaged file.
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
            raise damaged(path, reason_of(error)) from error
        # bytes, because a kill may cut a character; no splitlines, because strings may hold other separators
        whole = content.removesuffix(b"\n").split(b"\n") if content else []
        lines = []
        for number, raw in enumerate(whole, start=1):
            try:
                record = json.loads(raw)
                text = raw.decode()
            except (ValueError, RecursionError) as error:
                if number == len(whole):  # a kill has cut the last line
                    break
                raise damaged(path, f"line {number} is not JSON") from error
            if not _is_metrics(record):
                raise damaged(path, f"line {number} is no object of a step and its numbers")
            lines.append((text, record))
        return lines

    def finish(
        self, result: Mapping[str, Any], about: Mapping[str, Any] | None = None, key: Path | None = None
    ) -> None:
        """Write result.json, which makes the run finished, and remove the state to resume from.

        ``about``: facts for the manifest; None: the run gets no manifest. ``key``: the private key for the
        signature of the manifest.
        """
        if not self.writes:
            return
        self._must_be_open()
        if about is not None:
            write_manifest(self.path, about, {RESULT: json_text(result)}, key)
        atomic_write_json(self.path / RESULT, dict(result))
        shutil.rmtree(self.path / STATE, ignore_errors=True)

    def _must_be_open(self) -> None:
        assert not self.finished, f"run {self.path} is finished and must not be written again"


@contextmanager
def output_directory(path: Path, refuse: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the new directory of a run or a sweep to fill, as `atomic_directory`. ``refuse`` raises where
    ``path`` exists; UserError is raised where it cannot be made."""
    refuse(path)
    try:
        with atomic_directory(path) as scratch:
            yield scratch
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            refuse(path)  # another process was faster
        raise UserError(
            f"cannot make output directory `{path}`: {reason_of(error)}",
            "choose another `out=`",
        ) from error


def refuse_existing(path: Path) -> None:
    """Raise UserError where ``path`` exists, with a hint at the unfinished run in it."""
    if not os.path.lexists(path):
        return
    hint = "choose another `out=`"
    if (path / RUN).is_file() and not (path / RESULT).exists():
        with Run(path).held():  # raises where the run is running
            hint += f", or go on with the unfinished run in it: `--resume {shell_path(path)}`"
    raise UserError(f"output directory `{path}` exists", hint)


def without_model(run: Run) -> UserError:
    """Why a run, which has no `checkpoint/`, holds no model, and where one is."""
    try:
        run.result()
    except UserError as unfinished:
        return unfinished
    made = run.about().get("task")
    why = f"`mari {made}` makes none" if made in ("evaluate", "audit") else f"it has no `{CHECKPOINT}/`"
    in_turn = sorted(place.parent for place in run.path.glob(f"[0-9][0-9]*-*/{CHECKPOINT}"))
    return UserError(
        f"run `{run.path}` holds no model: {why}",
        f"the run of its last request holds it: `{in_turn[-1]}`"
        if in_turn
        else "give a finished run of `mari unlearn` or `mari finetune`",
    )


def _is_metrics(record: Any) -> bool:
    """Whether ``record`` has the form of a line of metrics.jsonl."""
    if not isinstance(record, dict) or not record:
        return False
    step = record.get("step", 0)
    plain = all(value is None or isinstance(value, str | int | float) for value in record.values())
    return plain and isinstance(step, int) and not isinstance(step, bool)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
