"""Checks that hold for every value of a configuration. Checks of a single key are in config/.

Standard library only.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mari_cli.errors import UserError

SMALLEST, LARGEST = 1e-30, 1e15
"""The limits of a setting. float32 holds 1e-38 to 3e38, and a run multiplies settings."""
SMALLEST_FREE, LARGEST_FREE = 1.1754943508222875e-38, 3.4028234663852886e38
"""The limits of a number in a free section, which are the limits of float32."""
DEEPEST = 20
"""The most levels of nesting. No configuration of a model needs nearly as many."""


def refuse_senseless(values: Mapping[str, Any], *, free: Sequence[str] = ()) -> None:
    """Raise UserError, with the key, for the first value in ``values`` that no run can use.

    The sections with the keys ``free`` hold values of another program, so empty text is allowed in them.
    """
    for key, value in leaves(values):
        inside = key.startswith(tuple(f"{section}." for section in free))
        if told := problem(value, *((SMALLEST_FREE, LARGEST_FREE) if inside else (SMALLEST, LARGEST))):
            raise UserError(f"`{key}` {told[0]}", told[1])
        if isinstance(value, str) and not value.strip() and not inside:
            raise UserError(f"`{key}` is empty", "give it a value, or leave it out")


def leaves(value: Any, key: str = "", level: int = 0, *, built: bool = False) -> Iterator[tuple[str, Any]]:
    """Every dotted key with its value, also inside lists and free sections. Raises UserError for a key such
    as `_target_`, from which Hydra builds a Python object, unless ``built`` allows it."""
    if level > DEEPEST:
        raise UserError(
            f"`{key[:80]}…` is nested more than {DEEPEST} levels deep", "no key of a run is: leave it out"
        )
    if isinstance(value, Mapping):
        for name, item in value.items():
            inside = f"{key}.{name}" if key else str(name)
            if not built and isinstance(name, str) and re.fullmatch(r"_\w+_", name):
                raise UserError(
                    f"`{inside}` is a word of Hydra's, which builds Python objects from it",
                    "leave it out: a configuration of mari holds values alone",
                )
            if isinstance(name, str) and (told := problem(name)):
                raise UserError(f"the key `{inside}` {told[0]}", told[1])
            yield from leaves(item, inside, level + 1, built=built)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from leaves(item, f"{key}[{place}]", level + 1, built=built)
    else:
        yield key, value


def problem(value: Any, smallest: float = 0, largest: float = math.inf) -> tuple[str, str] | None:
    """The fault of ``value`` and a hint, in words; None for a good value."""
    match value:
        case bool() | None:
            return None
        case float() if not math.isfinite(value):
            return f"must be a finite number, got {value}", "write a number such as 0.5 or 1e-4"
        case float() if abs(value) > largest or 0 < abs(value) < smallest:
            return (
                f"must be 0 or between {smallest:.1e} and {largest:.1e} in size, got {value}",
                "a run computes in float32, which cannot hold what becomes of it",
            )
        case int() if abs(value) >= 2**63:
            return "must be a whole number of at most 63 bits, got a longer one", "write a smaller number"
        case str() if "\0" in value:
            return "holds a NUL character", "leave it out: no file name and no text has one"
        case str() if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            return "is not UTF-8", "write it in UTF-8; a file whose name is not must be renamed"
        case _:
            return None
