"""The groups of conf/ and their options, which a user chooses as GROUP=OPTION."""

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mari_cli.errors import UserError

CONF = "mari_cli.conf"


@dataclass(frozen=True)
class Option:
    """A file in a group of conf/, which a user chooses as GROUP=NAME."""

    group: str
    name: str
    description: str


def options(group: str | None = None) -> list[Option]:
    """Every option of ``group``, or of all groups, with its file's comment; UserError for no such group."""
    groups = sorted(
        entry.name for entry in conf_folder().iterdir() if entry.is_dir() and not entry.name.startswith("_")
    )
    if group is not None and group not in groups:
        raise UserError(
            f"no config group `{group}`", f"the groups are {', '.join(f'`{name}`' for name in groups)}"
        )
    found = []
    for name in groups if group is None else [group]:
        for file in sorted(conf_folder().joinpath(name).iterdir(), key=lambda file: file.name):
            if file.name.endswith(".yaml"):
                comment = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
                text = (
                    " ".join(re.sub(r"^# ?", "", comment[0], flags=re.MULTILINE).split()) if comment else ""
                )
                found.append(Option(name, file.name.removesuffix(".yaml"), text))
    return found


def conf_folder() -> Any:
    """The installed folder conf/."""
    return resources.files(CONF)
