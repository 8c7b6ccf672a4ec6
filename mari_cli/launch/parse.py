"""Turn a composed config into the dataclasses of a run, and refuse impossible values."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mari_cli.config import RunConfig
from mari_cli.errors import UserError
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.hydra_errors import explain, impossible_value, unknown_key
from mari_cli.launch.typed import is_path
from mari_cli.launch.unread import keys_given, refuse_unread
from mari_cli.launch.values import leaves, refuse_senseless
from mari_cli.launch.yaml_files import BEGIN
from mari_cli.places import check_length, place

MOST_COPIES = 1000
"""The most copies of a value that references may make. References to references multiply the copies."""


def parse(cfg: DictConfig, experiment: Experiment | None = None, *, checked: bool = True) -> RunConfig:
    """The dataclasses of a composed config. Raises UserError for unknown keys, for missing or impossible
    values, and for keys of ``experiment`` that nothing would read. Without ``checked`` the dataclasses check
    nothing."""
    if not describes_a_run(cfg):
        raise UserError(f"`{experiment.file if experiment else cfg}` does not describe a run", BEGIN)
    kind = OmegaConf.get_type(cfg)
    assert kind is not None
    task = kind.task
    nodes = list(nodes_of(cfg))
    for key, section in _unknown_keys(nodes):
        raise unknown_key(key, section, task)
    for key in missing_keys(nodes):
        raise UserError(f"`{key}` is not set", f"set it: `{key}=…`")
    _expand_paths(cfg, nodes)
    try:
        sections = [(key, node) for key, node, _ in nodes if OmegaConf.is_dict(node)]  # some with any keys
        free = [key for key, node in sections if not is_dataclass(OmegaConf.get_type(node))]
        refuse_senseless(_resolved(cfg), free=free)
        parsed = OmegaConf.to_object(cfg) if checked else _unchecked(cfg)
    except OmegaConfBaseException as error:
        raise explain(error, task) from error
    except ValueError as error:
        refused = _refused_section(cfg)
        schema = OmegaConf.get_type(cfg._get_node(refused)) if refused else kind
        raise impossible_value(error, refused, schema) from error
    assert isinstance(parsed, RunConfig)
    if experiment:
        refuse_unread(parsed, keys_given(experiment))
    return parsed


def _unchecked(node: Any) -> Any:
    """As `OmegaConf.to_object`, without the `__post_init__` of any dataclass."""
    kind = OmegaConf.get_type(node)
    if not is_dataclass(kind):
        return OmegaConf.to_object(node) if OmegaConf.is_config(node) else node
    made = object.__new__(kind)
    for field in fields(kind):
        setattr(made, field.name, _unchecked(node[field.name]))
    return made


def describes_a_run(cfg: DictConfig) -> bool:
    kind = OmegaConf.get_type(cfg)
    return is_dataclass(kind) and issubclass(kind, RunConfig)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    copies = math.prod(
        max(1, value.count("${"))
        for _, value in leaves(unresolved(cfg), built=True)
        if isinstance(value, str)
    )
    if copies > MOST_COPIES:
        raise UserError(
            f"the references `${{…}}` of this configuration make more than {MOST_COPIES} copies of a value",
            "write the value where it is wanted",
        )
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def unresolved(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg, resolve=False)


Node = tuple[str, Any, type | None]
"""A key, its unresolved node, and the type of its section."""


def nodes_of(cfg: Any, prefix: str = "") -> Iterator[Node]:
    """Every key."""
    section = OmegaConf.get_type(cfg)
    for key in cfg:
        node = cfg._get_node(key, validate_access=False)
        yield f"{prefix}{key}", node, section
        if OmegaConf.is_dict(node) and not (
            node._is_none() or node._is_missing() or node._is_interpolation()
        ):
            yield from nodes_of(node, f"{prefix}{key}.")


def _unknown_keys(nodes: Sequence[Node]) -> Iterator[tuple[str, type]]:
    """Keys that `+KEY=VALUE` has added, but that the schema does not have."""
    known = {kind: {f.name for f in fields(kind)} for _, _, kind in nodes if kind and is_dataclass(kind)}
    for key, _, section in nodes:
        if section in known and key.rpartition(".")[2] not in known[section]:
            yield key, section


def _expand_paths(cfg: DictConfig, nodes: Sequence[Node]) -> None:
    """Replace `~` in `out`, because other paths are expanded only when they are read. Raises UserError for a
    path that is too long."""
    for key, node, section in nodes:
        if not (is_path(key) and is_dataclass(section)) or node._is_none() or node._is_interpolation():
            continue
        if isinstance(path := node._value(), str):
            check_length(key, path)
            if key == "out" and path:  # `Path("")` would be the current directory
                OmegaConf.update(cfg, key, str(place(path)))


def missing_keys(nodes: Iterable[Node]) -> Iterator[str]:
    """Required keys without a value. ``OmegaConf.missing_keys`` would resolve interpolations and fail."""
    return (key for key, node, _ in nodes if node._is_missing())


def _refused_section(cfg: DictConfig) -> str | None:
    """The section that is refused on its own; None where only the values of several sections conflict."""
    for key in cfg:
        if OmegaConf.is_dict(section := cfg._get_node(key)):
            try:
                OmegaConf.to_object(section)
            except ValueError:
                return str(key)
    return None
