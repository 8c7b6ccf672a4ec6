"""The models of a finished run: the one before, the one that it made, and gold, where its manifest says that
they are. No torch: a model that is gone is told in a blink."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mari_cli.config import LoraConfig, ModelConfig, RunConfig
from mari_cli.errors import UserError
from mari_cli.places import is_there
from mari_cli.storage.layout import CHECKPOINT
from mari_cli.storage.manifest import read_manifest
from mari_cli.storage.run import Run, without_model
from mari_cli.tasks.early_checks import BESIDE

ROLES = {"before": ("target",), "now": ("unlearned", "model"), "gold": ("gold",)}
"""The words for the models of a run, and their roles in its result."""


@dataclass(frozen=True)
class ModelOfRun:
    """One model, and how it is loaded."""

    config: ModelConfig
    weights: str | None
    """The hash that its weights must have; None: the user named the model, or no hash of it is known."""


@dataclass(frozen=True)
class ModelsOfRun:
    models: Mapping[str, ModelOfRun]
    """By the words of `ROLES`, in that order; the run's own is always there."""
    notes: list[str]
    """Which of them is not there, and why."""


def require_checkpoint(run: Path) -> dict[str, Any]:
    """The manifest of ``run``. Raises UserError where it is no finished run with a model of its own."""
    opened = Run.open(run)
    opened.result()
    if not (run / CHECKPOINT).is_dir():
        raise without_model(opened)
    return read_manifest(run)


def places_of(run: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Where the models beside ``run`` are, by role. One that is gone from the place in the manifest may lie
    beside the run, as where a folder with both was moved; the hash of its weights is checked later."""
    found = dict(manifest["places"])
    for role, path in found.items():
        moved = run.absolute().parent / Path(path).name
        if not is_there(path) and is_there(moved / CHECKPOINT):
            found[role] = str(moved)
    return found


def models_of_run(
    run: Path, config: RunConfig, *, before: str | None = None, gold: str | None = None
) -> ModelsOfRun:
    """The models of ``run``, whose configuration is ``config``. ``before`` and ``gold``: a place instead of
    the one that the manifest names, or `none`.

    Raises UserError where a model is no longer at its place.
    """
    manifest = require_checkpoint(run)
    weights, places = manifest["models"], places_of(run, manifest)
    known = {word: next((weights[r] for r in roles if r in weights), None) for word, roles in ROLES.items()}
    if config.task == "finetune" and config.model.path:
        places["target"], known["before"] = config.model.path, manifest["start"]["weights"]
    own = replace(config.model.at(str(run)), lora=LoraConfig())
    found = {"now": ModelOfRun(own, known["now"])}
    notes = []
    for word, given in (("before", before), ("gold", gold)):
        path = given or places.get(ROLES[word][0])
        if path == "none":
            continue
        if path is None:
            notes.append(f"there is no {BESIDE[word]} beside `{run}`: its manifest names none")
            continue
        start = path == config.model.path and "model" not in manifest.get("lineage", {})
        _require(word, path, run, may_be_in_hub=bool(given) or start)
        model = replace(own, path=path, revision=config.model.revision if start else None)
        found[word] = ModelOfRun(model, None if given else known[word])
    return ModelsOfRun({word: found[word] for word in ROLES if word in found}, notes)


def _require(word: str, path: str, run: Path, *, may_be_in_hub: bool) -> None:
    """Refuse a model that is gone."""
    if is_there(path):
        return
    hint = f"give it as `--{word} PATH`, or leave it out with `--{word} none`"
    if not may_be_in_hub or path.startswith(("/", ".", "~")):
        raise UserError(f"the {BESIDE[word]} of `{run}` is not at `{path}`", hint)
    from mari_cli import hub

    try:
        hub.require_model(path)
    except UserError as error:
        raise UserError(str(error), hint) from error
