"""The common base of a configuration's sections, and the checks that refuse impossible values.

A check raises ValueError, and names the key as the user types it. A section whose keys depend on its kind is
a `Section`; SCHEMAS holds all schemas by name.
"""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

SEED_BITS = 63

SCHEMAS: dict[str, type] = {}
"""Every schema by its name; conf/ uses the name as ``schema/NAME``. The part of a name after a slash is the
kind. mari_cli/config/schemas.py fills SCHEMAS."""

if TYPE_CHECKING:
    Flag = bool
else:  # OmegaConf accepts numbers and `on` as a bool; `flags` accepts only true and false
    Flag = Any


def require(condition: bool, message: str, hint: str | None = None) -> None:
    if not condition:
        error = ValueError(message)
        if hint:
            error.add_note(hint)
        raise error


def positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, f"{section}.{name} must be > 0, got {value}")


def flags(section: str, config: object, *names: str, null: str | None = None) -> None:
    """Accept only true and false, not a number or another word; the key ``null`` may also be null."""
    for name in names:
        value = getattr(config, name)
        require(
            isinstance(value, bool) or (value is None and name == null),
            f"{section}.{name} must be true or false, got {value}",
        )


def non_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= 0, f"{section}.{name} must be >= 0, got {value}")


def seeds(section: str, config: object, *names: str) -> None:
    """Accept only seeds that random, numpy and torch accept."""
    for name in names:
        value = getattr(config, name)
        given = [] if value is None else value if isinstance(value, list) else [value]
        require(
            all(0 <= seed < 2**SEED_BITS for seed in given),
            f"{section}{name} must be from 0 to 2**{SEED_BITS} - 1, got {value}",
        )


def fraction(section: str, config: object, *names: str, open_above: bool = False) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None:
            require(
                0 <= value < 1 or (value == 1 and not open_above),
                f"{section}.{name} must be {'in [0, 1)' if open_above else 'in [0, 1]'}, got {value}",
            )


def between(section: str, config: object, *names: str) -> None:
    """Accept only numbers above 0 and below 1."""
    for name in names:
        value = getattr(config, name)
        require(value is None or 0 < value < 1, f"{section}.{name} must be between 0 and 1, got {value}")


def choices(section: str, config: Any) -> None:
    """Turn a word into the member that it names, in each field of ``config`` that holds a StrEnum.

    The code compares members by identity: a plain word would silently choose another branch.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if not (isinstance(field.type, type) and issubclass(field.type, StrEnum)) or value == MISSING:
            continue
        words = [str(member) for member in field.type]
        require(value in words, f"{section}.{field.name} must be one of {', '.join(words)}, got {value}")
        object.__setattr__(config, field.name, field.type(value))


# -- sections of several kinds -------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Section:
    """A section whose keys depend on its kind. The option of the group chooses the kind, as `loss=npo`, and a
    saved configuration names the kind; the label ``name`` chooses nothing."""

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
        choices("section", self)


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
