"""The section `suite`: a benchmark in addition to the questions of the corpora."""

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mari_cli.sections import Section, positive, require


@dataclass(kw_only=True)
class SuiteConfig(Section):
    """A benchmark in addition to the questions of the corpora; the kind `corpora` is none. The kind is the
    name of a module of `mari_cli.suites`."""

    section = "suite"
    kind: str = "corpora"
    name: str = "corpora"


@dataclass(kw_only=True)
class PublishedSuite(SuiteConfig):
    """A suite whose questions are a data set of the hub."""

    path: str = MISSING
    """The data set, or a folder with its files, laid out as there."""


@dataclass(kw_only=True)
class TofuSuite(PublishedSuite):
    """TOFU (suites/tofu.py): forget quality, model utility, and the metrics from which they are computed."""

    kind: str = "tofu"
    name: str = "tofu"
    path: str = "locuslab/TOFU"
    """A hub data set, or a folder with its subsets as files: `forget10_perturbed.json`, …"""
    split: str = "forget10"
    """`forget01`, `forget05` or `forget10`: the percentage of authors to forget."""
    holdout: str | None = "auto"
    """The subset of authors that no model has seen, for membership inference; `auto`: the subset of the
    split, as `holdout10` for `forget10`; null: no membership inference."""
    items: int | None = positive(None)
    """The most questions of each set, from the first on (TOFU's published evaluations: 300); null: all."""
    max_new_tokens: int = positive(200)
    """The most tokens of a generated answer (`metrics.generate`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            re.fullmatch(r"forget\d\d", self.split) is not None,
            f"suite.split must be forget01, forget05 or forget10, got {self.split}",
        )


@dataclass(kw_only=True)
class MuseSuite(PublishedSuite):
    """MUSE (suites/muse.py): verbatim memorisation, knowledge, privacy leakage and utility."""

    kind: str = "muse"
    name: str = "muse"
    path: str = MISSING
    """A hub data set, or a folder with its subsets as folders: `knowmem/forget_qa.json`, …"""
    verbatim_tokens: int = positive(128)
    """Number of new tokens after a passage, and of the true tokens with which they are compared."""
    knowledge_tokens: int = positive(32)
    """The most tokens of an answer to a question."""


@dataclass(kw_only=True)
class RwkuSuite(PublishedSuite):
    """RWKU (suites/rwku.py): knowledge of famous people and of their neighbours."""

    kind: str = "rwku"
    name: str = "rwku"
    path: str = "jinzhuoran/RWKU"
    """A hub data set, or a folder with its files: `forget_level1.json`, …"""
    subject: str | None = None
    """The person to forget, as `Stephen King`; null: all two hundred people."""
    max_new_tokens: int = positive(30)
    """The most tokens of a generated answer."""


@dataclass(kw_only=True)
class OwnSuite(SuiteConfig):
    """A suite of the user (suites/own.py)."""

    kind: str = "own"
    name: str = "own"
    code: str | None = None
    """A Python file with a function `load(config)` that returns a suite."""
    path: str | None = None
    """The path of the suite's data."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings of the suite."""
