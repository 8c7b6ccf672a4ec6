"""Quoting of a typed KEY=VALUE, so that Hydra's grammar reads the value as the user meant it.

In Hydra's grammar a comma separates runs of a sweep, brackets make lists, and `~`, `=`, quotes and letters
beyond ASCII need quotes. In the name of a file they have no special meaning. Standard library only.
"""

import re
import shlex

from mari_cli.places import is_there

PATHS = (
    *("out", "cache", "path", "tokenizer", "code", "gold", "before", "from_log", "gold_log", "target_log"),
    *("mia_reference", "benchmark_root", "keys", "retain_model", "both_model", "support.model"),
    *("request.key", "forget.requests"),
)
"""The last parts of keys whose value is a path."""
WORDS = ("request.id", "request.note")
"""Keys whose value is always plain text, never a list, a number or a sweep."""
LISTED = ("from_log", "forget.requests")
"""Keys of PATHS that also take a list of paths."""
FREE = ("model.chat_template_args",)
"""Sections without a schema. Hydra needs `++` for a key in them, because the key is new."""
_SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|str)\(.*\)", re.DOTALL)
_WORD = re.compile(r"(?!(true|false|null|nan|inf)$)[a-z_./][a-z0-9_./-]*", re.IGNORECASE | re.ASCII)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def as_meant(override: str) -> str:
    """``override`` in Hydra's grammar, with the meaning that the user intended."""
    typed = re.fullmatch(r"([+~]*)([\w./@-]+)=(.*)", override, re.DOTALL)
    if typed is None:
        return override
    sign, key, value = typed.groups()
    if any(key == free or key.startswith(f"{free}.") for free in FREE):
        sign = sign or "++"
    if key in LISTED:
        value = _word(value) if is_there(value) else _entries_in_words(value)
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
    """One path, or several with commas between them. If a file ``value`` exists, it is one path."""
    if value in ("", "null") or "${" in value or _SWEEP.fullmatch(value):
        return value
    if is_there(value):
        return _word(value)
    if "\\" in value:  # a backslash escapes a character for Hydra, so the value is in its grammar already
        return value
    parts = re.findall(rf"(?:{_QUOTED.pattern})(?=,|\Z)|[^,]+", value) or [value]
    return ",".join(_word(part) for part in parts) if "," in value else _word(value)


def _entries_in_words(value: str) -> str:
    """Quote the entries of a list that need quotes, also in a list inside the list. A value that is no list
    is returned unchanged."""
    if not re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL) or "${" in value or "\\" in value:
        return value
    entry = rf"\s*((?:{_QUOTED.pattern})|[\[\]]|[^,\[\]]+)\s*"
    parts = (part.strip() for part in re.split(rf"{entry}|(,)", value.strip(), flags=re.DOTALL) if part)
    return "".join(part if part in ("", "[", "]", ",") else _word(part) for part in parts)


def entries_of(value: str) -> list[str]:
    """The texts of a typed list, those of a list inside it too, without their quotes."""
    found = re.findall(rf"\s*((?:{_QUOTED.pattern})|[^,\[\]]+)", value, re.DOTALL)
    return [text for entry in found if (text := unquoted(entry.strip()))]


def _word(path: str) -> str:
    if _WORD.fullmatch(path) or _QUOTED.fullmatch(path):
        return path
    return _in_quotes(path)


def quote(value: str) -> str:
    """``value``, in quotes if Hydra's grammar needs them."""
    return _in_quotes(value) if re.search(r"[^A-Za-z0-9_./-]", value) else value


def _in_quotes(value: str) -> str:
    """``value`` in quotes. Only a backslash before a quote, or at the end, must be escaped."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def unquoted(value: str) -> str:
    """The text of a typed ``value`` without its quotes, if it has quotes."""
    if not _QUOTED.fullmatch(value):
        return value
    sign = value[0]
    return re.sub(rf"(\\*)({sign}|\Z)", lambda m: m[1][: len(m[1]) // 2] + m[2], value[1:-1])


def shell_word(key: str, value: str) -> str:
    """KEY=VALUE, quoted for a shell and for Hydra, so that any ``value`` is read as text."""
    word = f'{key}="{value}"' if not re.search(r'["\\]', value) else f"{key}={_in_quotes(value)}"
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_escape(letter) for letter in word) + "'"


def _escape(letter: str) -> str:
    """``letter`` escaped for a shell's `$'…'`."""
    if letter in "\\'":
        return f"\\{letter}"
    if letter in "\n\t":
        return repr(letter)[1:-1]
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
