"""KEY=VALUE as it is typed: what Hydra's grammar would misread is quoted before Hydra reads it.

Standard library only. In Hydra's grammar a comma separates runs of a sweep, brackets make lists, and `~`,
`=`, quotes and letters beyond ASCII are no part of a word. In the name of a file they stand for themselves.
"""

import re
import shlex

from mari_cli.places import is_there

PATHS = (
    *("out", "cache", "path", "tokenizer", "code", "gold", "before", "from_log", "gold_log", "target_log"),
    *("mia_reference", "benchmark_root", "keys", "retain_model", "both_model", "support.model"),
    "request.key",
)
"""Last parts of the keys that hold a path."""
WORDS = ("request.id", "request.note")
"""Keys whose value is text as it is typed: no list, no number, and no sweep."""
LISTED = ("from_log",)
"""Of these the keys that take a list of paths, too."""
FREE = ("model.chat_template_args",)
"""Sections without a schema: a key in them is new, which Hydra wants to be told with `++`."""
_SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|str)\(.*\)", re.DOTALL)
_WORD = re.compile(r"(?!(true|false|null|nan|inf)$)[a-z_./][a-z0-9_./-]*", re.IGNORECASE | re.ASCII)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def as_meant(override: str) -> str:
    """``override`` as Hydra has to be told it."""
    typed = re.fullmatch(r"([+~]*)([\w./@-]+)=(.*)", override, re.DOTALL)
    if typed is None:
        return override
    sign, key, value = typed.groups()
    if any(key == free or key.startswith(f"{free}.") for free in FREE):
        sign = sign or "++"
    if key in LISTED:
        value = _as_word(value) if is_there(value) else value
    elif key in WORDS:
        value = value if value in ("", "null") or _QUOTED.fullmatch(value) else _in_quotes(value)
    elif is_path(key):
        value = _path(value)
    elif not value.isascii() and not re.search(r"""['"\[\]{}(),$\\]""", value):
        value = quote(value)
    return f"{sign}{key}={value}"


def is_path(key: str) -> bool:
    """Whether the value of ``key`` is a path."""
    return any(key == path or key.endswith(f".{path}") for path in PATHS)


def _path(value: str) -> str:
    """One path, or several with commas between them; a file that is there is one, whatever its name."""
    if value in ("", "null") or "${" in value or _SWEEP.fullmatch(value):
        return value
    if is_there(value):
        return _as_word(value)
    if "\\" in value:  # which Hydra drops where it stands before a sign of its grammar
        return value
    parts = re.findall(rf"(?:{_QUOTED.pattern})(?=,|\Z)|[^,]+", value) or [value]
    return ",".join(_as_word(part) for part in parts) if "," in value else _as_word(value)


def _as_word(path: str) -> str:
    if _WORD.fullmatch(path) or _QUOTED.fullmatch(path):
        return path
    return _in_quotes(path)


def quote(value: str) -> str:
    """``value`` as Hydra's grammar reads it."""
    return _in_quotes(value) if re.search(r"[^A-Za-z0-9_./-]", value) else value


def _in_quotes(value: str) -> str:
    """A backslash counts only before a quote, or at the end."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def unquoted(value: str) -> str:
    """The text that a typed ``value`` stands for, where it is one."""
    if not _QUOTED.fullmatch(value):
        return value
    sign = value[0]
    return re.sub(rf"(\\*)({sign}|\Z)", lambda m: m[1][: len(m[1]) // 2] + m[2], value[1:-1])


def shell_word(key: str, value: str) -> str:
    """KEY=VALUE to be pasted into a shell, with ``value`` as text, whatever is in it."""
    word = f'{key}="{value}"' if not re.search(r'["\\]', value) else f"{key}={_in_quotes(value)}"
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_escape(letter) for letter in word) + "'"


def _escape(letter: str) -> str:
    """As it is written between `$'` and `'`."""
    if letter in "\\'":
        return f"\\{letter}"
    if letter in "\n\t":
        return repr(letter)[1:-1]
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
