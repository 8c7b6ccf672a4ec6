"""The saved configuration of a run: read again, or offered as options of another run."""

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mari_cli import config
from mari_cli.config import RunConfig
from mari_cli.errors import UserError
from mari_cli.launch.experiment import CORPORA, RUN_OPTION, label_of
from mari_cli.launch.hydra_errors import explain
from mari_cli.launch.parse import parse
from mari_cli.storage.layout import CHECKPOINT, INPUTS

TASKS = ("unlearn", "finetune", "evaluate", "audit")


def load_run_config(run: Path, *, checked: bool = False) -> RunConfig:
    """The config of the run in directory ``run``. Its `config.yaml` is resolved, so Hydra composes nothing.
    Raises UserError for a file that is no config of this version. Only with ``checked`` a value is refused
    that an earlier version allowed: a finished run was done with it."""
    if not (run / "config.yaml").is_file():
        if (run / INPUTS).is_file():
            alone = f"its model alone is `{run / CHECKPOINT}`"
            raise UserError(f"run `{run}` has lost its `config.yaml`", alone)
        raise UserError(
            f"`{run}` is no run directory: it has no `config.yaml`",
            "`mari runs list` shows the runs there are",
        )
    return parse(read_config(run), checked=checked)


def read_config(run: Path) -> DictConfig:
    """The same before it is resolved."""
    try:
        data = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    except yaml.YAMLError as error:
        raise explain(error, "unlearn") from error
    return add_schema(data, run)


def add_schema(data: Any, run: Path) -> DictConfig:
    """The configuration in ``data``, as YAML holds it, with its schema, not resolved. ``run``: where it is
    from, for messages."""
    assert isinstance(data, dict)
    tasks = {task: config.SCHEMAS[task] for task in TASKS}
    task = _kind(data, "task", tasks, run)
    cfg = OmegaConf.structured(tasks[task])
    for key, section in data.items():
        group = config.kinds_of(str(key))
        if not group or key == "train" or not isinstance(section, dict):
            continue
        if key == "suite" and "protocol" in section:  # earlier versions called the key `protocol`
            section["kind"] = section.pop("protocol")
        cfg[key] = group[_kind(section, "kind", group, run)]
    try:
        merged = OmegaConf.merge(cfg, data)
    except OmegaConfBaseException as error:
        raise explain(error, task) from error
    assert isinstance(merged, DictConfig)
    return merged


def apply_changes(cfg: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """A copy of what `add_schema` made, with ``changes`` by dotted key; UserError for a key that it lacks."""
    copied = copy.deepcopy(cfg)
    try:
        for key, value in changes.items():
            OmegaConf.update(copied, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise explain(error, str(cfg.task)) from error
    return copied


def _kind(data: dict[Any, Any], word: str, group: dict[str, type], run: Path) -> str:
    """The kind that ``data`` names under ``word``. Earlier versions saved no kind: then the kind with the
    fewest keys that has all keys of ``data``, and of several such kinds the one that the label names."""
    sizes = {
        kind: len(fields(schema))
        for kind, schema in group.items()
        if set(data) <= {field.name for field in fields(schema)} and data.get(word) in (None, kind)
    }
    if not sizes:
        raise UserError(
            f"`{run / 'config.yaml'}` has keys that this version does not know",
            "it was written by another version of mari, or by hand",
        )
    smallest = [kind for kind, size in sizes.items() if size == min(sizes.values())]
    return str(data["name"]) if data.get("name") in smallest else smallest[0]


def register_run(run: Path) -> None:
    """Register the sections of ``run`` as options of their groups, with its checkpoint as the model."""
    cfg = load_run_config(run)
    model = replace(cfg.model.at(str(run)), name=label_of(str(run)), lora=config.LoraConfig())
    sections = {"model": model, **{corpus: getattr(cfg, corpus) for corpus in CORPORA}}
    for group, node in sections.items():
        ConfigStore.instance().store(name=RUN_OPTION, node=node, group=group, package=group)
