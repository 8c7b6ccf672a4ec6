"""The schemas of all sections, by their names in conf/, and a configuration as plain data."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import OmegaConf

from mari_cli.config.audit import AuditConfig
from mari_cli.config.corpora import (
    FictionalCorpus,
    FileCorpus,
    ForgetFictional,
    ForgetFiles,
    RetainFictional,
    RetainFiles,
)
from mari_cli.config.metrics import MetricsConfig
from mari_cli.config.model import ModelConfig
from mari_cli.config.runs import AuditRun, EvaluateRun, FinetuneRun, UnlearnRun
from mari_cli.config.suites import MuseSuite, OwnSuite, RwkuSuite, SuiteConfig, TofuSuite
from mari_cli.config.tracker import TrackerConfig, WandbConfig
from mari_cli.config.train import FinetuneConfig, UnlearnConfig
from mari_cli.losses.base import LOSSES
from mari_cli.sections import SCHEMAS

SCHEMAS.update(
    {
        "audit": AuditRun,
        "audit/base": AuditConfig,
        "finetune": FinetuneRun,
        "unlearn": UnlearnRun,
        "evaluate": EvaluateRun,
        "model/base": ModelConfig,
        "forget/fictional": ForgetFictional,
        "forget/files": ForgetFiles,
        "retain/fictional": RetainFictional,
        "retain/files": RetainFiles,
        "holdout/fictional": FictionalCorpus,
        "holdout/files": FileCorpus,
        **{f"loss/{kind}": loss for kind, loss in LOSSES.items()},
        "train/finetune": FinetuneConfig,
        "train/unlearn": UnlearnConfig,
        "metrics/base": MetricsConfig,
        "suite/corpora": SuiteConfig,
        "suite/tofu": TofuSuite,
        "suite/muse": MuseSuite,
        "suite/rwku": RwkuSuite,
        "suite/own": OwnSuite,
        "tracker/none": TrackerConfig,
        "tracker/wandb": WandbConfig,
    }
)


def to_plain(config: object) -> dict[str, Any]:
    """A configuration, of dataclasses, as plain dictionaries, lists, strings and numbers."""
    plain = _plain(config)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.name if isinstance(value, Enum) else value


def to_yaml(config: object) -> str:
    """A configuration as YAML, in the form of config.yaml."""
    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))
