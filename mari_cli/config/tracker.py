"""The section `tracker`: a service that gets the numbers of a run in addition to its files."""

from dataclasses import dataclass, field
from enum import StrEnum

from mari_cli.sections import Section


class WandbMode(StrEnum):
    auto = "auto"  # online with an API key, offline without one
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
