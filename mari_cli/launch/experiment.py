"""The overrides of a command: those on the command line, and those that they imply."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mari_cli.launch.groups import CONF
from mari_cli.launch.typed import as_meant, entries_of, quote, unquoted
from mari_cli.launch.yaml_files import choices_in
from mari_cli.places import is_there, place
from mari_cli.storage.layout import INPUTS

CORPORA = ("forget", "retain", "holdout")
IMPLYING = ("model.path", *(f"{corpus}.path" for corpus in CORPORA), "forget.requests")
"""Values from which options follow (`implied_choices`)."""
SCRATCH = "gpt2_tiny"
"""The default model, which starts with random weights."""
RUN_OPTION = "_run"
"""The option, in each group, that holds the section of the run that `evaluate` measures."""
OF_USER = "_user_"
"""Begins Hydra's name of a user's file, which may be called `unlearn.yaml` and build on `unlearn`."""


@dataclass(frozen=True)
class Experiment:
    """The config of a command: the primary config of ``task`` or a file of the user, with overrides."""

    task: str
    overrides: Sequence[str] = ()
    file: Path | None = None
    model: str | None = None
    """The model that `evaluate` measures, or a run, whose corpora `evaluate` then uses, too."""

    @property
    def primary(self) -> str:
        return f"{OF_USER}{self.file.stem}" if self.file else self.task

    @property
    def arguments(self) -> list[str]:
        """Every override for Hydra. Of two overrides for one key the later one is used."""
        search_path = [f"hydra.searchpath=[pkg://{CONF}]"] if self.file else []
        overrides = [as_meant(override) for override in self.overrides]
        in_file = choices_in(self.file, IMPLYING, values_of(self.overrides)) if self.file else []
        implied = implied_choices([*in_file, *self.overrides])
        chosen = [*self._subject(), *implied, *overrides]
        # the training of a file is its own, unless nobody chose its model
        own = self.file and "model=pretrained" not in implied
        gentle = [] if own else trained_model_choices([*in_file, *chosen], self.task)
        return [*search_path, *gentle, *chosen]

    @property
    def command(self) -> list[str]:
        """The words of the command that repeats this run."""
        file = ["-c", str(self.file)] if self.file else []
        return ["mari", self.task, *([self.model] if self.model else []), *file, *self.overrides]

    def _subject(self) -> list[str]:
        if self.model is None:
            return []
        if is_run(Path(self.model)):
            return [f"{section}={RUN_OPTION}" for section in ("model", *CORPORA)]
        return [
            "model=pretrained",
            f"model.path={quote(self.model)}",
            f"model.name={quote(label_of(self.model))}",
        ]


def values_of(overrides: Sequence[str]) -> dict[str, str]:
    """What ``overrides`` say by key; of two for one key the later one."""
    return dict(override.partition("=")[::2] for override in overrides)


def implied_choices(overrides: Sequence[str]) -> list[str]:
    """Group options that follow from a path, so that nobody needs to type them.

    `model.path=X` implies `model=pretrained`; `forget.path=X` implies `forget=text` for a .txt file or a
    folder with .txt files, else `forget=jsonl`; the same for retain and holdout, and for files in
    `forget.requests`. If `retain.path` is given, or the text is a request, it is not split into forget and
    retain.
    """
    given = values_of(overrides)
    implied: dict[str, str] = {}
    if (path := given.get("model.path", "null")) != "null" and "model" not in given:
        implied["model"] = "pretrained"
        # one path, not a sweep over several
        if (whole := unquoted(path)) != path or is_there(path) or not re.search(r"[,()\[\]{}$]", path):
            implied["model.name"] = quote(label_of(whole))
    for corpus in CORPORA:
        if (path := given.get(f"{corpus}.path", "null")) != "null" and corpus not in given:
            implied[corpus] = "text" if _is_text(unquoted(path)) else "jsonl"
    if "forget" not in given and (sources := _files_among(given.get("forget.requests") or "[]")):
        texts = all(_is_text(source) for source in sources)
        implied["forget"] = "text" if texts else "jsonl"
    uncut = "retain.path" in given or "forget.requests" in given
    if uncut and (given.get("forget") or implied.get("forget")) == "text":
        implied["forget.fraction"] = "null"
    return [f"{key}={value}" for key, value in implied.items()]


def _files_among(requests: str) -> list[str]:
    """What `forget.requests` names, where all of it looks like files; names of people do not."""
    named = [requests] if is_there(requests) else entries_of(requests)
    like_files = (is_there(path) or "/" in path or re.search(r"\.[a-z]+$", path) for path in named)
    return named if all(like_files) else []


def trained_model_choices(overrides: Sequence[str], task: str) -> list[str]:
    """Options for a model that is trained already, which need other settings than the default model."""
    given = values_of(overrides)
    if given.get("model", SCRATCH) == SCRATCH:
        return []
    gentle = {
        "unlearn": {"train": "unlearn", "train@finetune": "finetune"},
        "finetune": {"train": "finetune"},
    }
    return [f"{key}={value}" for key, value in gentle.get(task, {}).items() if key not in given]


def label_of(path: str) -> str:
    """The name of a model in tables, from its path or hub id."""
    return Path(path).name or path


def _is_text(path: str) -> bool:
    folder = place(path)
    return path.endswith(".txt") or (os.path.isdir(folder) and any(folder.glob("*.txt")))


def is_run(path: Path) -> bool:
    """Whether ``path`` is the directory of a run, also of one whose config is lost: as a model alone it would
    be measured on other corpora than its own."""
    return any(os.path.isfile(place(path) / name) for name in ("config.yaml", INPUTS))
