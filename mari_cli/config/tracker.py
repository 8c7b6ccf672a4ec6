"""The section `tracker`: where the numbers of a run are sent besides its own files."""

from dataclasses import dataclass, field
from enum import StrEnum

from mari_cli.sections import Section


class WandbMode(StrEnum):
    auto = "auto"  # online with a key, offline without
    online = "online"
    offline = "offline"


@dataclass(kw_only=True)
class TrackerConfig(Section):
    kind: str = "none"


@dataclass(kw_only=True)
class WandbConfig(TrackerConfig):
    kind: str = "wandb"
    project: str = "mari"
    entity: str | None = None
    mode: WandbMode = WandbMode.auto
    tags: list[str] = field(default_factory=list)
