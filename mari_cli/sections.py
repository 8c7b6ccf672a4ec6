"""Sections of a configuration: what they have in common, and the checks that refuse an impossible value.

A check raises a ValueError that names the key as the user types it. A section whose keys depend on its kind
is a `Section`; SCHEMAS holds all schemas by name.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

SEED_BITS = 63

SCHEMAS: dict[str, type] = {}
"""Every schema under the name by which conf/ refers to it, as ``schema/NAME``; after the slash its kind.
mari_cli/config/schemas.py fills it."""

if TYPE_CHECKING:
    Flag = bool
else:  # OmegaConf takes any number for a bool, and `on`: `flags` takes true and false alone
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
    """True or false, and no number or word that might stand for one; the key ``null`` may be null, too."""
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
    """Seeds that random, numpy and torch all take."""
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


# -- sections of several kinds -------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Section:
    """A section whose keys depend on its kind. The group's option chooses the kind, as `loss=npo`, and a
    saved configuration names it; the label chooses nothing."""

    kind: str = MISSING
    """The schema of this section, by its name in SCHEMAS: each class has its own, and no other is taken."""
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
        meant = next((kind for kind in others if _bare(kind) == _bare(str(self.name))), None)
        require(
            meant is None,
            f"section.name is a label only, and this section is {own}, not {meant}",
            f"`section={meant}` chooses {meant}; a label is any other word",
        )
        label("section", self)


def label(section: str, config: Any) -> None:
    """A label stands in tables and names directories."""
    name = str(config.name)
    require(
        name.isprintable() and "/" not in name,
        f"{section}.name is a label, and has no `/` and no line break, got {name!r}",
        "write a word or two",
    )


def _bare(word: str) -> str:
    """``word`` as a reader takes it: KL-GA is kl_ga."""
    return re.sub(r"[\W_]", "", word).casefold()


def kinds_of(section: str) -> dict[str, type]:
    """The schemas that a section can have, by their kind; one or none where nothing is to choose."""
    start = f"{section}/"
    return {name.removeprefix(start): schema for name, schema in SCHEMAS.items() if name.startswith(start)}


def kinds_beside(schema: type) -> set[str]:
    """The kinds that stand where ``schema`` can stand, without its own."""
    sections = {name.partition("/")[0] for name, known in SCHEMAS.items() if known is schema}
    return {kind for section in sections for kind, other in kinds_of(section).items() if other is not schema}


def display_name(section: Section) -> str:
    """What ``section`` is called where people read it: by its label, and by its kind where they differ."""
    return section.name if section.name == section.kind else f"{section.name} ({section.kind})"
