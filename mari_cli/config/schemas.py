"""The schemas of all sections, by their names in conf/, and a configuration as plain data."""

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
    """A configuration as plain dictionaries, lists, strings and numbers."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def to_yaml(config: object) -> str:
    """A configuration as YAML, in the form of config.yaml."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
