"""What a run's manifest says beside the hashes of its files: request, data, weights, numbers, lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mari_cli
from mari_cli.config import RunConfig, to_plain
from mari_cli.storage.hashing import content_hash, file_hash
from mari_cli.storage.json_files import finite, read_object
from mari_cli.storage.run import now

CODE = Path(mari_cli.__file__).parent
ADAPTERS = ("adapter_model.safetensors", "base.json")


@dataclass(frozen=True)
class Origin:
    """What a run began with, as far as its files do not tell."""

    start: str | None = None
    """Hash of the weights of the model that the run was given."""
    forget: Sequence[str] = ()
    """SHA-256 of the canonical text of each forget record (`Record.key`); never the text."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """By key of the configuration, the run that a model came from: its path and the hash of its manifest."""


NOWHERE = Origin()
"""Of a run that loads no model."""


def describe_run(
    path: Path, result: Mapping[str, Any], config: RunConfig, origin: Origin, places: Mapping[str, str]
) -> dict[str, Any]:
    """All that the manifest of the run at ``path`` says of it. ``places``: by role, where models lie that it
    was compared with."""
    request = config.request
    return {
        "request": {"ids": request.ids, "note": request.note},
        "finished": now(),
        "code": {"mari": mari_cli.__version__, "sha256": code_hash()},
        "forget_records": list(origin.forget),
        "start": {"model": config.model.path, "revision": config.model.revision, "weights": origin.start},
        "lineage": dict(origin.lineage),
        "places": dict(places),
        "config": to_plain(config),
        "seeds": seeds_of(to_plain(config)),
        **described_by_files(path, result),
    }


def described_by_files(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What of it the files of the run tell by themselves, so that it can be compared with them."""
    training = result["training"]
    return {
        **{key: result[key] for key in ("task", "name", "loss", "command", "created")},
        "data": read_object(path / "data.json"),
        "models": {role: found["hash"] for role, found in result["models"].items()},
        "adapters": _adapters(path / "checkpoint"),
        "environment": read_object(path / "environment.json"),
        "metrics": {role: found["metrics"] for role, found in result["models"].items()},
        "audit": result.get("audit"),
        "training": training and {name: training.get(name) for name in ("steps", "kept_step", "stopped_by")},
    }


def code_hash() -> str:
    """Of all Python files of this mari, by name and content."""
    names = (file.relative_to(CODE).as_posix() for file in CODE.rglob("*.py"))
    return content_hash([[name, file_hash(CODE / name)] for name in sorted(names) if name[:5] != "conf/"])


def seeds_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every seed of a configuration, by its dotted key."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= seeds_of(value, f"{prefix}{name}.")
        elif name in ("seed", "seeds"):
            found[f"{prefix}{name}"] = value
    return found


def same(said: Any, found: Any) -> bool:
    """Whether a manifest says what a file says: both as JSON holds them."""
    return content_hash(finite(said)) == content_hash(finite(found))


def _adapters(checkpoint: Path) -> dict[str, Any] | None:
    """Of adapters that are saved alone: their hash, and the model that they need."""
    weights, base = (checkpoint / name for name in ADAPTERS)
    if not weights.is_file():
        return None
    return {"sha256": file_hash(weights), "base": read_object(base)["path"] if base.is_file() else None}
