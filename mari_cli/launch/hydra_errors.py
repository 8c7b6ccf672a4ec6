"""Errors of Hydra and OmegaConf about a config, turned into a UserError of one line and a hint.

This file reads only the text and the attributes of an error, so it does not import Hydra.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from mari_cli import config
from mari_cli.errors import UserError, did_you_mean, nearest
from mari_cli.launch.experiment import CORPORA
from mari_cli.launch.typed import is_path, shell_word, unquoted
from mari_cli.launch.yaml_files import BEGIN
from mari_cli.places import is_there

LIST_KEYS = "`mari config show` lists every key with its value"
TYPES = {
    "Float": "a number",
    "Integer": "a whole number",
    "Boolean": "`true` or `false`",
    "bool": "`true` or `false`",
}
OPTION_OF = {"files": "jsonl"}
"""The option of a schema, where their names differ."""
LAUNCHERS = {"joblib": "hydra-joblib-launcher", "submitit": "mari-cli[slurm]"}
"""The package of a launcher, by the beginning of the launcher's name."""


def explain(error: Exception, task: str) -> UserError:
    """The UserError for ``error``, which was raised while a config of ``task`` was composed or parsed."""
    if (missing := getattr(error, "missing_cfg_file", None)) is not None:
        return _no_such_option(missing, getattr(error, "options", None))
    if (override := getattr(error, "override", None)) is not None:
        return _no_override(override)
    if (mark := getattr(error, "problem_mark", None)) is not None:  # an error of PyYAML
        problem = getattr(error, "problem", None) or "syntax error"
        return UserError(f"`{mark.name}` line {mark.line + 1} is not YAML: {problem}", "mend that line")
    text = "\n".join(str(e) for e in (error.__cause__, error) if e is not None)
    key = _detail("full_key", text)
    if match := re.search(r"Key '(.*?)' not in '(\w+)'", text):
        typed = re.search(r"Could not override '(.*?)'", text)
        section = _schema(match[2])
        return unknown_key(key or match[1], section, task, typed[1] if typed else None)
    if match := re.search(r"Could not override '(.*?)'", text):  # the key is a group in a defaults list
        return unknown_key(match[1], None, task) if match[1] else _no_override(match[1])
    example = _example(_schema(_detail("object_type", text)), key)
    for pattern, retold in _EXPLANATIONS:
        if match := re.search(pattern, text):
            return retold(match, key, example)
    for pattern, words in _IN_WORDS.items():
        if match := re.search(pattern, text):
            filled = (part.format(match[0], *match.groups(), key=key, example=example) for part in words)
            return UserError(*filled)
    said = next((line for line in text.splitlines() if "raised while composing" not in line), text)
    said = said[:1].lower() + said[1:].rstrip(".") or type(error).__name__
    return UserError(f"`{key}`: {said}" if key else said, LIST_KEYS)


def unknown_key(key: str, section: type | None, task: str, typed: str | None = None) -> UserError:
    """The UserError for ``key``, which is not in ``section``. ``typed`` is the whole typed key, if longer."""
    typed = typed or key
    parent, _, word = key.rpartition(".")
    siblings = [field.name for field in fields(section)] if is_dataclass(section) else []
    there = keys(task)
    if typed in there and (section is None or not parent):  # the file is of another task, or of no run
        return UserError(
            f"`{typed}` cannot be set: the file of `-c` does not describe a run that has it", BEGIN
        )
    elsewhere = [known for known in there if known.rpartition(".")[2] == typed.rpartition(".")[2]]
    hint = LIST_KEYS
    near = nearest(word, siblings)
    named = [(option, {field.name for field in fields(schema)}) for option, schema in _schemas(parent)]
    if far := nearest(word, {name for _, names in named for name in names}.difference(siblings)):
        others = [OPTION_OF.get(option, option) for option, names in named if far in names]
        listed = " and ".join(f"`{parent}={option}`" for option in others)
        question = "" if far == word else f"did you mean `{parent}.{far}`? "
        hint = (
            f"{question}{listed} {'has' if len(others) == 1 else 'have'} it, the {parent} chosen here has not"
        )
    if not parent and elsewhere:  # a whole name beats a similar one
        hint = f"did you mean `{elsewhere[0]}`?"
    elif near and far != word:
        corrected = ".".join(filter(None, [parent, near]))
        whole = corrected + typed.removeprefix(key)
        hint = f"did you mean `{whole if whole in there else corrected}`?"
    elif not parent and (guess := nearest(typed, there)):
        hint = f"did you mean `{guess}`?"
    if typed.startswith("sweep."):
        hint = "`mari sweep` takes it, which runs many"
    return UserError(f"unknown config key `{typed}`", hint)


def impossible_value(error: ValueError, section: str | None, schema: type | None) -> UserError:
    """The UserError for ``error``, which a ``__post_init__`` raised. ``section`` replaces the word for the
    section in the message, because a schema may serve several sections."""
    message = str(error)
    noted = next(iter(getattr(error, "__notes__", [])), None)
    if section is not None:
        message = re.sub(r"\b(corpus|section)\.", f"{section}.", message)
        noted = noted and re.sub(r"\bsection=", f"{section}=", noted)
        if section == "finetune":
            message = re.sub(r"\btrain\.", "finetune.", message)
        if f"{section}." not in message:
            message = f"{section}: {message}"
    if "exclude each other" in message:
        return UserError(_mark_keys(message), "an existing model takes `model=pretrained model.path=…`")
    return UserError(_mark_keys(message), noted or _example(schema, message.split()[0]))


def _mark_keys(message: str) -> str:
    return re.sub(r"\b[a-z_]+(\.[a-z_]+)+\b", r"`\g<0>`", message)


def keys(task: str) -> list[str]:
    """Every dotted key that a config of ``task`` can have."""

    def below(prefix: str, schema: type) -> Iterator[str]:
        for field in fields(schema):
            yield f"{prefix}{field.name}"
            for _, choice in _schemas(f"{prefix}{field.name}", field.type):
                yield from below(f"{prefix}{field.name}.", choice)

    return list(dict.fromkeys(below("", config.SCHEMAS[task])))


def _schemas(section: str, kind: Any = None) -> list[tuple[str, type]]:
    """The schemas that ``section`` can have: the schemas of its group, or the one of its type ``kind``."""
    if section == "finetune":
        return [("finetune", config.SCHEMAS["train/finetune"])]
    group = list(config.kinds_of(section).items())
    if isinstance(kind, type) and is_dataclass(kind):
        return [(name, schema) for name, schema in group if issubclass(schema, kind)] or [("", kind)]
    return group


def _schema(name: str) -> type | None:
    """The schema, or the section inside a schema, whose class is called ``name``."""

    def below(schema: Any) -> Iterator[type]:
        yield schema
        for field in fields(schema):
            if is_dataclass(field.type):
                yield from below(field.type)

    every = (found for schema in config.SCHEMAS.values() for found in below(schema))
    return next((found for found in every if found.__name__ == name), None)


def _detail(name: str, text: str) -> str:
    match = re.search(rf"^\s*{name}[:=] *(\S*)$", text, re.MULTILINE)
    return match[1] if match else ""


def _example(schema: Any, key: str) -> str:
    """An example of a value for ``key``: the default in its schema, or in a section inside."""
    for field in fields(schema) if is_dataclass(schema) else ():
        if field.name == key.rpartition(".")[2] and field.default not in (MISSING, None, "???"):
            if isinstance(field.default, str) and not isinstance(field.default, Enum):
                return f"e.g. `{shell_word(key, field.default)}`"
            return f"e.g. `{key}={str(field.default).lower()}`"
        if is_dataclass(field.type) and f".{field.name}." in key:
            return _example(field.type, key)
    return LIST_KEYS


def _wrong_type(match: re.Match[str], key: str, example: str) -> UserError:
    return UserError(f"`{key}` must be {TYPES.get(match[2], match[2])}, got `{match[1]}`", example)


def _not_a_choice(match: re.Match[str], key: str, example: str) -> UserError:
    value, choices = match[1], match[2].split(", ")
    listed = ", ".join(f"`{choice}`" for choice in choices)
    if value == "False" and "off" in choices:  # YAML reads `off` without quotes as false
        return UserError(
            f"`{key}` must be one of {listed}, got `false`", 'in YAML, off needs quotes: `"off"`'
        )
    return UserError(
        f"`{key}` must be one of {listed}, got `{value}`",
        did_you_mean(value, choices, example, key=f"{key}="),
    )


def _wrong_section(match: re.Match[str], key: str, example: str) -> UserError:
    names = {schema.__name__: name for name, schema in config.SCHEMAS.items()}
    found, expected = names.get(match[1]), names.get(match[2])
    if found is not None and expected is not None:
        return UserError(
            f"`{found.replace('/', '=')}` does not fit here",
            f"this command takes `{expected.replace('/', '=')}`",
        )
    if match[1] == "NoneType":
        return UserError(f"`{key}` cannot be null", example)
    section, value = key or (expected or match[2]).partition("/")[0], match[3] or ""
    hint = f"set what is in it: `{section}.KEY=VALUE`"
    if section in ("model", "forget", "retain", "holdout"):
        hint = f"`{section}.path` is a path, in a file `{section}: {{path: {value}}}`"
    elif expected is not None:
        hint = f"a file chooses an option in its `defaults`: `override {section}: {value}`"
    return UserError(f"`{section}` is a section, and takes no value, got `{value}`", hint)


_EXPLANATIONS: list[tuple[str, Callable[[re.Match[str], str, str], UserError]]] = [
    (r"Value '(.*?)' of type '\w+' could not be converted to (\w+)", _wrong_type),
    (r"Value '(.*?)' is not a valid (bool)", _wrong_type),
    (r"Invalid value '(.*?)', expected one of \[(.*?)\]", _not_a_choice),
    (r"(\w+) is not a subclass of (\w+)(?:\. value: (.*))?", _wrong_section),
    (r"Ambiguous value for argument '(.*)'", lambda match, key, example: _several_runs(match[1])),
]
_IN_WORDS = {
    r"'NoneType' object has no attribute 'get'|Unexpected type for root: NoneType|^Unexpected type: None$": (
        "a section that is null takes no fields",
        "choose one: `model=gpt2_tiny model.architecture.n_layer=2`, or `audit=quick audit.KEY=…`",
    ),
    r"already at '(.*)'": ("`{1}` takes no `+`: it is there already", "write `KEY=VALUE`"),
    r"delete from config. '(.*?)'": ("`{1}` is not there, so `~` cannot take it out", LIST_KEYS),
    r"does not support deletion": ("`{key}` cannot be taken out", "write `KEY=VALUE`, without `~`"),
    r"is not a ListConfig, list or tuple": ("`{key}` must be a list", "write `{key}=[a,b]`"),
    r"is not Optional": ("`{key}` cannot be null", "{example}"),
    r"[Ss]weep parameters '(.*)' requires --multirun": (
        "`{1}` is searched, and one run takes one value", "`mari sweep … sweep.trials=6` searches it"
    ),
    r"Multiple values for ([\w/@]+)": (
        "`{1}` is chosen twice", "in a defaults list, write `override {1}: OPTION`"
    ),
    r"Override '(\S+) : (\S+)' is defined before '(\S+): (\S+)'": (
        "`override {1}: {2}` stands before `{3}: {4}`",
        "overrides stand at the end of a defaults list, after `_self_`",
    ),
    r"Interpolation key '(.*?)' not found": (
        "`{key}` follows `{1}`, which this config does not have", "set it: `{key}=…`"
    ),
    r"group override must be a string or a list": (
        "a group takes the name of one of its options", "`mari config list` names them"
    ),
}  # fmt: skip
"""Message and hint by what Hydra or OmegaConf says; numbers stand for the groups of the pattern."""


def _several_runs(override: str) -> UserError:
    if is_path(override.partition("=")[0]):
        return UserError(
            f"`{override}` asks for several runs: no file has a name with that comma",
            "check the name, or let `mari sweep` run each",
        )
    return UserError(
        f"`{override}` asks for several runs", "`mari sweep` runs them; a list is written `KEY=[a,b]`"
    )


def _no_such_option(missing: str, options: Sequence[str] | None) -> UserError:
    group, _, option = missing.rpartition("/")
    if not group:
        return UserError(
            f"no config named `{missing}`", "the file of a run builds on `unlearn`, `finetune` or `evaluate`"
        )
    if group == "hydra/launcher" and (
        extra := [LAUNCHERS[name] for name in LAUNCHERS if option.startswith(name)]
    ):
        return UserError(f"launcher `{option}` is not installed", f"pip install '{extra[0]}'")
    if group.startswith("schema/"):
        section = group.removeprefix("schema/")
        return UserError(
            f"no {section} of kind `{option}` is known",
            "the file that registers it must be imported (a loss's by `mari_cli/losses/__init__.py`); "
            "known are " + ", ".join(f"`{kind}`" for kind in config.kinds_of(section)),
        )
    if not group.startswith("hydra/"):
        group, _, option = missing.partition("/")
    if option and group in ("model", *CORPORA) and ("/" in option or is_there(option)):
        return UserError(f"no {group} named `{option}`", f"a file or a folder is given as `{group}.path=…`")
    listed = [name for name in options or [] if not name.startswith("_")]
    near = nearest(option, listed)
    hint = f"did you mean `{near}`? " if near else ""
    return UserError(
        f"no {group} named `{option}`" if option else f"`{group}=` names no option",
        f"{hint}{group} is one of {', '.join(f'`{name}`' for name in listed)}",
    )


def _no_override(override: str) -> UserError:
    key, equals, value = override.partition("=")
    if not (key and equals):
        return UserError(f"`{override or '='}` is not KEY=VALUE", "e.g. `loss=npo` or `train.steps=100`")
    if re.match(r"[^\s:=]+:[\w./@]+$", key):
        return UserError(
            f"`{override}` is of one method among several",
            "`mari sweep` runs them; for one write `KEY=VALUE`",
        )
    if re.match(r"(choice|range|interval|tag|int|float)\(", value):
        return UserError(
            f"cannot read the range of `{override}`",
            "write `interval(1e-5,1e-3)`, `tag(log,interval(1e-5,1e-3))`, `int(interval(1,8))` or "
            f"`choice(1,3,10)`; values such as null stand between commas: `{key}=null,1`",
        )
    return UserError(
        f"cannot read the value of `{override}`",
        f"text with special characters needs two pairs of quotes: {shell_word(key, unquoted(value))}",
    )
