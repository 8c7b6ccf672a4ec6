"""Checks of a user's YAML file before it is loaded: its kind, and the size that it would have in memory."""

import os
import shlex
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mari_cli.config import SCHEMAS
from mari_cli.errors import UserError
from mari_cli.storage.json_files import read_object
from mari_cli.storage.layout import RUN

MOST_BYTES = 2**20
MOST_NODES = 100_000
"""The most values, after each alias is replaced by its content. A complete run has some hundred values."""
DEEPEST = 50
BEGIN = "begin it with `defaults: [unlearn, _self_]`, or `finetune`, or `evaluate`"
DEFAULTS = "defaults: [{task}, _self_]"
"""The first line of the file of a run."""


def check_file(file: Path) -> None:
    """Raise UserError unless ``file`` is a regular file that can be read."""
    hint = "`-c` takes a YAML file; complete runs are in experiments/"
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no file `{file}`", hint) from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read `{file}`: {reason.lower()}", hint) from error
    if stat.S_ISDIR(mode):
        raise UserError(f"`{file}` is a directory, not a file", hint)
    if not stat.S_ISREG(mode):
        raise UserError(f"`{file}` is a pipe or a device, not a file", hint)
    if not os.access(file, os.R_OK):
        raise UserError(f"cannot read `{file}`: permission denied", "make it readable: `chmod u+r FILE`")


def check_yaml(file: Path) -> None:
    """Raise UserError for YAML that is no text, is empty, or would be too large or too deep in memory.

    Text that is not YAML passes, because its loader reports the line of the error.
    """
    check_file(file)
    content = file.read_bytes()
    if len(content) > MOST_BYTES:
        raise UserError(
            f"`{file}` has {len(content)} bytes, and no configuration has more than {MOST_BYTES}",
            "is it another file?",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"`{file}` is not UTF-8 (byte {error.start + 1})", "save it as UTF-8") from error
    try:
        depth, line = _deepest(text)
        if depth > DEEPEST:
            raise UserError(
                f"`{file}` line {line} is nested more than {DEEPEST} levels deep",
                "no key of a run is: mend it",
            )
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"`{file}` holds a character that YAML does not allow, at position {error.position}",
            "save it as plain text",
        ) from error
    except yaml.YAMLError:
        return
    if root is None:
        raise UserError(f"`{file}` is empty", BEGIN)
    if isinstance(root, yaml.ScalarNode):
        raise UserError(f"`{file}` does not hold keys and values", BEGIN)
    if _size(root, {}) > MOST_NODES:
        raise UserError(
            f"`{file}` has more than {MOST_NODES} values, once each alias is replaced by what it stands for",
            "write fewer aliases (`*NAME`)",
        )


def require_defaults(file: Path, task: str) -> None:
    """Raise UserError where ``file`` does not say in `defaults:` which run of mari it builds on, or holds
    values that would not count.

    ``task`` is the command that reads it. Text that is not YAML passes, as in `check_yaml`."""
    if (root := root_of(file)) is None:
        return
    line = DEFAULTS.format(task=task)
    if not isinstance(root, dict):
        raise UserError(
            f"`{file}` does not hold keys and values", f"begin it with `{line}`, then write `KEY: VALUE`"
        )
    if "defaults" not in root:
        if "task" in root:
            raise UserError(
                f"`{file}` is the saved configuration of a run, and `-c` takes none", _again(file)
            )
        raise UserError(f"`{file}` has no `defaults:`", f"add this line at its beginning: `{line}`")
    named = root["defaults"]
    if not isinstance(named, list):
        raise UserError(f"`defaults` in `{file}` is not a list", f"write `{line}`")
    bases = [entry for entry in named if isinstance(entry, str)]
    if all(base == "_self_" for base in bases):
        raise UserError(
            f"`defaults` in `{file}` does not name what the run builds on",
            f"put `{task}` first: `defaults: [{task}, …, _self_]`",
        )
    if bases[-1] != "_self_" and len(root) > 1:
        raise UserError(
            f"`defaults` in `{file}` has no `_self_` after `{bases[-1]}`, whose values would then hold",
            f"write `defaults: [{bases[-1]}, …, _self_]`",
        )
    if dotted := next((key for key in map(str, root) if "." in key), None):
        raise UserError(
            f"`{dotted}` in `{file}` has a dot, and keys of a file have none",
            "`train: {steps: 3}` is what `train.steps=3` is on the command line",
        )


def is_shipped(name: str) -> bool:
    """Whether ``name`` in a defaults list is mari's own, whatever lies beside the file of a user."""
    return name in SCHEMAS or name == "_base"


def choices_in(file: Path, keys: Iterable[str], typed: Mapping[str, str]) -> list[str]:
    """What ``file``, and the files beside it that it builds on, say of options, as if it were typed: the
    options that `defaults` chooses, and the values of ``keys``. The first file stands last.

    ``typed``: what the command line says by key. Of a group it may choose another option, or several."""
    found: list[str] = []
    waiting = [file]
    for here in waiting:  # grows
        root = root_of(here) if here.is_file() else None
        if not isinstance(root, dict):
            continue
        for key in keys:
            section, _, name = key.partition(".")
            if isinstance(values := root.get(section), dict) and values.get(name) is not None:
                found.append(f"{key}={values[name]}")
        for entry in root.get("defaults") or []:
            for name, option in entry.items() if isinstance(entry, dict) else [(str(entry), None)]:
                group = name.removeprefix("override ").strip().lstrip("/")
                folder = here.parent / group.partition("@")[0]
                if option is None:
                    beside = [] if is_shipped(group) else [Path(f"{folder}.yaml")]
                else:
                    found.append(f"{group}={option}")
                    chosen = typed.get(group, str(option)).strip("[]").split(",")
                    beside = [folder / f"{one.strip()}.yaml" for one in chosen]
                waiting += [other for other in beside if other not in waiting]
    return found[::-1]


def root_of(file: Path) -> Any:
    """What ``file`` holds; None for text that Hydra's loader, or `check_yaml`, will refuse with its line."""
    try:
        return yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, RecursionError):
        return None


def _again(config: Path) -> str:
    """How to do the run again whose saved configuration is ``config``."""
    about = config.with_name(RUN)
    if not about.is_file():
        return "type the run's own command again, with another `out=`: it stands in the run's `run.json`"
    words = [word for word in read_object(about)["command"] if not word.startswith("out=")]
    return f"type the run's own command again: `{shlex.join(words)} out=ANOTHER`"


def _deepest(text: str) -> tuple[int, int]:
    """The deepest level and its line, read from events of the parser, which need no stack."""
    level, found = 0, (0, 0)
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            found = max(found, (level, event.start_mark.line + 1))
            if level > DEEPEST:
                return found
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1
    return found


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values of ``node`` and below. A value in two places counts twice, but is visited once."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # the value for a node that contains itself
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        else:
            below = node.value if isinstance(node, yaml.SequenceNode) else []
        known[id(node)] = 1 + sum(_size(part, known) for part in below)
    return known[id(node)]
