"""A finished run directory as typed values; the rest of the report reads nothing else."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mari_cli.errors import UserError, first_line, one_line, reason_of, shell_path
from mari_cli.metrics.difference import Difference
from mari_cli.metrics.distance import Entered
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.items import ItemValues, item_values
from mari_cli.metrics.metric import as_logged
from mari_cli.report.shape import CONFIG as CONFIG_SHAPE
from mari_cli.report.shape import (
    DATA,
    ENVIRONMENT,
    EXAMPLES,
    ITEM,
    STEP,
    has_lone_surrogate,
    result_schema,
    too_deep,
    wrong,
)
from mari_cli.search.aim import BESIDE
from mari_cli.storage.layout import CONFIG, METRICS, RESULT
from mari_cli.storage.run import Run
from mari_cli.storage.run_list import run_directories

SCHEMA_VERSION = 1
MOST_ALIASES = 50
_NO_CONFIG = (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError, AssertionError)
"""Errors that OmegaConf raises for text that is no mapping."""
_BY_HAND = "was it edited by hand? bring it back as it was, or leave the run out"
_TOOK = frozenset({"tokens", "seconds", "tokens_per_second", "mfu", "peak_bytes"})
_HOUSEKEEPING = _TOOK | {"step", "kind", "loss", "lr", "grad_norm"}


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model's metrics by full name (``forget/answer_nll``), and the hash of its weights, if known."""

    metrics: dict[str, Estimate]
    hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """The course and end of unlearning. ``stopped_by`` is None if all steps were run."""

    steps: int
    kept_step: int | None = None
    stopped_by: str | None = None
    precision: str | None = None
    precision_reason: str | None = None
    device: str | None = None
    tokens: int | None = None
    layout: str | None = None
    """Padded or packed, and the reason."""
    pooling_scope: str | None = None
    """For a loss that pools positions: those of the `step`, or of each `micro` batch."""
    micro_batch: int | None = None
    """Sequences of each corpus in a forward pass; None: all sequences of the step."""
    chunk: int | None = None
    """Positions whose logits exist at one time."""
    keep_logits: bool | None = None
    """Whether a pool's logits were kept until the pool was averaged; None: they need little memory."""
    gradient_checkpointing: bool | None = None
    kernels: str | None = None
    """Whether the functions of logits were compiled, or why not."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """All data of one run that a report needs."""

    path: Path
    name: str
    task: str
    result: dict[str, Any]
    """The result as it was written."""
    models: dict[str, ModelResult]
    loss: str | None = None
    command: list[str] = field(default_factory=list)
    created: str | None = None
    seconds: float | None = None
    training: Training | None = None
    notes: list[str] = field(default_factory=list)
    train_rows: list[dict[str, float]] = field(default_factory=list)
    """One row per training step: ``step``, ``loss``, every term of the loss, ``lr``, …"""
    eval_rows: list[dict[str, float]] = field(default_factory=list)
    """One row per evaluation during training: ``step`` and metrics by full name."""
    items: list[ItemValues] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Forget questions: `prompt`, `answer` and, by role, what each model said. The text is untrusted: escape
    it for display."""
    config: dict[str, Any] = field(default_factory=dict)
    config_yaml: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Records, tokens and hash of each corpus, or of each set of a suite."""
    entered: Entered | None = None
    """The metrics of the run's distances to gold."""

    @cached_property
    def differences(self) -> dict[Any, Difference | None]:
        """Cache of differences from this run's models to others, by metric: each bootstrap runs once."""
        return {}

    @cached_property
    def distances(self) -> dict[Any, dict[str, Difference]]:
        """Cache of differences of distances to gold, which are computed three at a time."""
        return {}

    @property
    def seed(self) -> int | None:
        seed = self.setting("seed")
        return None if seed is None else int(seed)

    def items_of(self, model: str) -> list[ItemValues]:
        return self._items_by_model.get(model, [])

    @cached_property
    def _items_by_model(self) -> dict[str, list[ItemValues]]:
        found: dict[str, list[ItemValues]] = {}
        for item in self.items:
            found.setdefault(item.model, []).append(item)
        return found

    def setting(self, key: str) -> Any:
        """A value of the resolved config by dotted key; None if the config lacks the key."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value

    @property
    def terms(self) -> list[str]:
        """Names of the logged loss terms, in the order in which they appear."""
        return list(dict.fromkeys(key for row in self.train_rows for key in row if key not in _HOUSEKEEPING))

    def values(self, *, model: str, set: str, metric: str, suite: str | None = None) -> dict[int, float]:
        """Values of items by item number; without a suite, those of the run's own corpora."""
        return {
            entry.item: entry.values[metric]
            for entry in self.items_of(model)
            if entry.set == set and entry.suite == suite and metric in entry.values
        }


def read_run(path: Path, *, result: dict[str, Any] | None = None) -> RunData:
    """Read a run directory. Raises UserError for a directory without a valid result.

    ``result`` replaces ``result.json``, for a run that writes its report just before it is finished.
    """
    if result is None:
        if run_directories(path) != [path]:  # raises where `path` is no run
            hint = f"try `mari compare {shell_path(path)}`"
            raise UserError(f"`{path}` holds runs, it is none itself", hint)
        result = _read_json(path / RESULT, {"type": "object"})
    assert result is not None
    if not isinstance(result.get("models"), dict) or "task" not in result:
        raise UserError(f"`{path / RESULT}` is not the result of a run", _BY_HAND)
    if result.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"`{path}` was written in format {result.get('schema_version')}, this mari reads format "
            f"{SCHEMA_VERSION}",
            "use the version of mari named in its `environment.json`",
        )
    _require_shape(result, result_schema(), path / RESULT)
    models = {
        role: ModelResult(metrics=estimates_of(entry["metrics"]), hash=entry.get("hash"))
        for role in BESIDE
        if (entry := result["models"].get(role)) is not None
    }
    if not models:
        raise UserError(f"`{path / RESULT}` holds no model that was measured", _BY_HAND)
    rows = Run(path).metrics()
    for number, row in enumerate(rows, start=1):
        _require_shape(row, STEP, path / METRICS, line=number)
    config_file, items_file = path / CONFIG, path / "items.jsonl"
    config_yaml = _read_text(config_file) if config_file.exists() else ""
    items = _read_text(items_file).splitlines() if items_file.exists() else []
    trained, entered = result.get("training"), result.get("distance_to_gold")
    return RunData(
        path=path,
        name=one_line(str(result.get("name") or path.name)),
        task=str(result["task"]),
        result=result,
        models=models,
        loss=result.get("loss"),
        command=[str(word) for word in result.get("command") or []],
        created=result.get("created"),
        seconds=result.get("seconds"),
        training=Training(**{of.name: trained.get(of.name) for of in fields(Training)}) if trained else None,
        notes=[str(note) for note in result.get("notes") or []],
        train_rows=[_numbers(row) for row in rows if row.get("kind") == "train"],
        eval_rows=[_numbers(row) for row in rows if row.get("kind") == "eval"],
        items=[
            item_values(_parse_json(line, ITEM, items_file, line=number))
            for number, line in enumerate(items, start=1)
        ],
        examples=_read_json(path / "examples.json", EXAMPLES, default=[]),
        config=_parse_config(config_yaml, config_file),
        config_yaml=config_yaml,
        environment=_read_json(path / "environment.json", ENVIRONMENT, default={}),
        data=_flatten_corpora(_read_json(path / "data.json", DATA, default={})),
        entered=None
        if entered is None
        else Entered(tuple(entered["forget"]), tuple(entered["kept"]), dict(entered["left_out"])),
    )


def read_runs(paths: list[Path]) -> list[RunData]:
    """Every finished run among ``paths`` and in the sweeps among them, each once. Raises UserError."""
    directories = {run.resolve(): run for path in paths for run in run_directories(path)}
    return [read_run(run) for run in directories.values()]


def _read_text(path: Path) -> str:
    """The text of a run's file in UTF-8. Raises UserError."""
    if not path.is_file():
        raise UserError(f"`{path}` is no file", _BY_HAND)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"`{path}` is not UTF-8", _BY_HAND) from error
    except OSError as error:
        raise UserError(f"cannot read `{path}`: {reason_of(error)}", _BY_HAND) from error


def _read_json(path: Path, schema: dict[str, Any], *, default: Any = None) -> Any:
    if default is not None and not path.exists():
        return default
    return _parse_json(_read_text(path), schema, path)


def _parse_json(text: str, schema: dict[str, Any], path: Path, *, line: int | None = None) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"`{path}` is not JSON: line {line or error.lineno}: {error.msg}", _BY_HAND
        ) from error
    except (ValueError, RecursionError) as error:  # thousands of digits or of brackets
        raise UserError(f"`{path}` is not JSON: {error}", _BY_HAND) from error
    if too_deep(value):
        raise UserError(f"`{path}` is nested deeper than a run writes", _BY_HAND)
    if has_lone_surrogate(text):
        raise UserError(f"`{path}` is not valid Unicode: it spells half of a character", _BY_HAND)
    _require_shape(value, schema, path, line=line)
    return value


def _require_shape(value: Any, schema: dict[str, Any], path: Path, *, line: int | None = None) -> None:
    if told := wrong(value, schema):
        where = f"`{path}`" + (f" line {line}" if line else "")
        raise UserError(f"{where} is not as a run writes it: {told}", _BY_HAND)


def _number(value: object) -> float:
    """``value`` as float. Standard JSON has no NaN, so a run writes null for values that are not finite."""
    return math.nan if value is None else float(str(value))


def _optional(value: object) -> float | None:
    return None if value is None else _number(value)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        as_logged(key): _number(value)
        for key, value in row.items()
        if key != "kind" and not isinstance(value, str | list)
    }


def estimates_of(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    """Estimates from the metrics of a result."""
    return {
        name: Estimate(
            value=_number(value["value"]),
            n=int(value.get("n") or 0),
            low=_optional(value.get("low")),
            high=_optional(value.get("high")),
        )
        for name, value in metrics.items()
    }


def _count_open_brackets(text: str) -> int:
    """The largest number of brackets that are open at one time."""
    deepest = depth = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if sign in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _parse_config(text: str, path: Path) -> dict[str, Any]:
    if not text.strip():
        return {}
    if _count_open_brackets(text) > MOST_ALIASES:  # would take a YAML parser minutes
        raise UserError(f"`{path}` is nested deeper than a run writes", _BY_HAND)
    try:
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if aliases > MOST_ALIASES:  # an alias may stand for any number of others
            raise UserError(f"`{path}` has {aliases} aliases, and a run writes none", _BY_HAND)
        value = OmegaConf.to_container(OmegaConf.create(text))
    except _NO_CONFIG as error:
        raise UserError(f"`{path}` is no config of a run: {first_line(error)}", _BY_HAND) from error
    _require_shape(value, CONFIG_SHAPE, path)
    if too_deep(value):
        raise UserError(f"`{path}` is nested deeper than a run writes", _BY_HAND)
    assert isinstance(value, dict)
    return {str(key): entry for key, entry in value.items()}


def _flatten_corpora(value: object) -> dict[str, dict[str, Any]]:
    """``data.json`` as corpus -> fields, from a mapping or a list of named corpora; each set of a suite
    counts as a corpus, `tofu/forget`."""
    if isinstance(value, list):
        return {str(entry.get("name", number)): dict(entry) for number, entry in enumerate(value)}
    assert isinstance(value, dict)
    found: dict[str, dict[str, Any]] = {}
    for key, entry in value.items():
        if isinstance(entry, dict) and entry and all(isinstance(of_set, dict) for of_set in entry.values()):
            found |= {f"{key}/{name}": dict(of_set) for name, of_set in entry.items()}
        else:
            found[str(key)] = dict(entry) if isinstance(entry, dict) else {"value": entry}
    return found
