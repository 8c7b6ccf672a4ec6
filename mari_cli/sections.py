"""The common base of a configuration's sections, and the checks that refuse impossible values.

A check raises ValueError, and names the key as the user types it. A section whose keys depend on its kind is
a `Section`; SCHEMAS holds all schemas by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import MISSING

SEED_BITS = 63

SCHEMAS: dict[str, type] = {}
"""Every schema by its name; conf/ uses the name as ``schema/NAME``. The part of a name after a slash is the
kind. mari_cli/config/schemas.py fills SCHEMAS."""

if TYPE_CHECKING:
    Flag = bool
else:  # OmegaConf accepts numbers and `on` as a bool; `flag` accepts only true and false
    Flag = Any


def require(condition: bool, message: str, hint: str | None = None) -> None:
    if not condition:
        error = ValueError(message)
        if hint:
            error.add_note(hint)
        raise error


T = TypeVar("T")
ACCEPTED = "accepted"
"""Of a field's metadata: what it may hold, in words and as a function."""


def _accepted(default: T, words: str, holds: Callable[[Any], bool], *, null: bool = True) -> T:
    """A field that refuses what does not hold; ``null``: it may also be null, if its type says so."""
    rule = words, lambda value: holds(value) if value is not None else null
    return field(default=default, metadata={ACCEPTED: rule})


def positive(default: T) -> T:
    return _accepted(default, "> 0", lambda value: value > 0)


def non_negative(default: T) -> T:
    return _accepted(default, ">= 0", lambda value: value >= 0)


def flag(default: T) -> T:
    """Only true and false, not a number or another word; null where that is the default."""
    return _accepted(default, "true or false", lambda value: isinstance(value, bool), null=default is None)


def seeds(default: T) -> T:
    """A seed, or a list of them, that random, numpy and torch accept."""

    def holds(value: Any) -> bool:
        return all(0 <= seed < 2**SEED_BITS for seed in (value if isinstance(value, list) else [value]))

    return _accepted(default, f"from 0 to 2**{SEED_BITS} - 1", holds)


def fraction(default: T, *, open_above: bool = False) -> T:
    words = "in [0, 1)" if open_above else "in [0, 1]"
    return _accepted(default, words, lambda value: 0 <= value < 1 or (value == 1 and not open_above))


def between(default: T) -> T:
    """A number above 0 and below 1."""
    return _accepted(default, "between 0 and 1", lambda value: 0 < value < 1)


class Checked:
    """A dataclass whose fields say what they accept.

    A word that names a member of a StrEnum becomes that member: the code compares members by identity, and a
    plain word would silently choose another branch.
    """

    section = ""
    """Before the names of its keys, as the user types them."""

    def __post_init__(self) -> None:
        for key in fields(self):  # type: ignore[arg-type]
            value, name = getattr(self, key.name), f"{self.section}.{key.name}".lstrip(".")
            if ACCEPTED in key.metadata:
                words, holds = key.metadata[ACCEPTED]
                require(holds(value), f"{name} must be {words}, got {value}")
            elif isinstance(key.type, type) and issubclass(key.type, StrEnum) and value != MISSING:
                known = [str(member) for member in key.type]
                require(value in known, f"{name} must be one of {', '.join(known)}, got {value}")
                object.__setattr__(self, key.name, key.type(value))


# -- sections of several kinds -------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Section(Checked):
    """A section whose keys depend on its kind. The option of the group chooses the kind, as `loss=npo`, and a
    saved configuration names the kind; the label ``name`` chooses nothing."""

    section = "section"
    kind: str = MISSING
    """The name of this section's schema in SCHEMAS. Each class accepts only its own kind."""
    name: str = MISSING
    """Label in tables and run names."""

    def __post_init__(self) -> None:
        own, others = type(self).kind, kinds_beside(type(self))
        require(
            self.kind == own,
            f"section.kind is {own} here, got {self.kind}",
            f"the kind follows from the option: `section={self.kind}`"
            if self.kind in others
            else "the kind follows from the option that is chosen: leave it out",
        )
        meant = next((kind for kind in others if _normalise(kind) == _normalise(str(self.name))), None)
        require(
            meant is None,
            f"section.name is a label only, and this section is {own}, not {meant}",
            f"`section={meant}` chooses {meant}; a label is any other word",
        )
        label("section", self)
        super().__post_init__()


def label(section: str, config: Any) -> None:
    """Refuse a label with `/` or a line break, because labels are in tables and in names of directories."""
    name = str(config.name)
    require(
        name.isprintable() and "/" not in name,
        f"{section}.name is a label, and has no `/` and no line break, got {name!r}",
        "write a word or two",
    )


def _normalise(word: str) -> str:
    """``word`` in lower case without signs, so that KL-GA equals kl_ga."""
    return re.sub(r"[\W_]", "", word).casefold()


def kinds_of(section: str) -> dict[str, type]:
    """The schemas that a section can have, by their kind; empty for a section without kinds."""
    start = f"{section}/"
    return {name.removeprefix(start): schema for name, schema in SCHEMAS.items() if name.startswith(start)}


def kinds_beside(schema: type) -> set[str]:
    """The other kinds of the sections that can have ``schema``."""
    sections = {name.partition("/")[0] for name, known in SCHEMAS.items() if known is schema}
    return {kind for section in sections for kind, other in kinds_of(section).items() if other is not schema}


def display_name(section: Section) -> str:
    """The name of ``section`` for people: its label, and its kind if the two differ."""
    return section.name if section.name == section.kind else f"{section.name} ({section.kind})"
