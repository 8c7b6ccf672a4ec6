"""Where the models of a run come from: the runs whose manifests lead to them."""

from typing import Any

from mari_cli.errors import UserError
from mari_cli.places import place
from mari_cli.storage.layout import MANIFEST
from mari_cli.storage.manifest import read_manifest
from mari_cli.tasks.manifest import Origin
from mari_cli.tasks.preflight import Preflight


def origin_of(flight: Preflight[Any]) -> Origin:
    """What the run of ``flight`` begins with."""
    paths = {
        "model": flight.config.model.path,
        "before": flight.before.path if flight.before else None,
        "gold": flight.gold.path if flight.gold else None,
    }
    lineage = {key: found for key, path in paths.items() if path and (found := _run_of(path))}
    return Origin(
        start=flight.models.get("the weights of the model"),
        forget=[record.key for record in flight.setting.texts.forget],
        lineage=lineage,
    )


def _run_of(path: str) -> dict[str, str] | None:
    """The run that the model at ``path`` is of: its place as it was given, and the hash of its manifest."""
    given = place(path)
    for run in (given, given.parent) if given.name == "checkpoint" else (given,):
        if (run / MANIFEST).is_file():
            try:
                return {"run": str(run), "manifest": read_manifest(run)["sha256"]}
            except UserError:  # damaged: the run it is of cannot be named for sure
                return {"run": str(run), "manifest": "damaged"}
    return None
