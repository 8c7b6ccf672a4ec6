"""Files damaged in every way that people and machines damage them, from a seed."""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import yaml

WHOLE = (b"", b"\x00", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"[]", b"{}", b"null", b"5", b'"x"',
         b"[1]", b"true",
         b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b'{"a": "\\ud800"}', b"a: &a [1]\nb: *a\n", b"? [a]\n: b",
         b"{", b"a: ${b}\n", b"\xff", b"a\n\tb: c")  # fmt: skip
"""In place of a whole file."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2.5, 1e308, -1e308, 10**30, 10**400, float("nan"), float("inf"),
    "", "x", "$\\frac",
    "two\nlines", "é \U0001f600", "9" * 300, [], {}, [1], [[1]], ["x"], {"a": 1}, {"value": "x"}, {"0": None},
)  # fmt: skip
"""In place of one value of it."""


def damage(path: Path, seed: int) -> str:
    """Damage one file, or what stands in its place; returns what was done, in words."""
    chance = random.Random(f"{path.name} {seed}")
    if seed < len(WHOLE):
        path.write_bytes(WHOLE[seed])
        return f"{path.name} is {WHOLE[seed][:20]!r}"
    how = chance.choice(
        ["value", "value", "value", "value", "key", "gone", "cut", "byte", "folder", "missing"]
    )
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif how == "byte":
        at = chance.randrange(len(content))
        path.write_bytes(content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :])
    else:
        return f"{path.name}: {_value(path, content.decode(), how, chance)}"
    return f"{path.name}: {how}"


def _value(path: Path, text: str, how: str, chance: random.Random) -> str:
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    line = chance.randrange(len(lines))
    value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(lines[line])
    value = {"": value}
    places = [*_places(value)]
    holder, key = chance.choice(places)
    new = copy.deepcopy(chance.choice(VALUES))
    if how == "gone" and holder is not value:
        del holder[key]
    elif how == "key" and isinstance(holder, dict) and holder is not value:
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = new
    written = yaml.safe_dump(value[""]) if path.suffix == ".yaml" else json.dumps(value[""])
    lines[line] = written
    path.write_text("\n".join(lines))
    return f"{how} at {key!r}: {str(new)[:30]}"


def _places(value: Any) -> Any:
    """Every place of a value inside another: (holder, key)."""
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(entry, dict | list):
            yield from _places(entry)


def fresh(whole: Path, path: Path) -> Path:
    """A copy to be damaged, in place of what was there."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    return path
