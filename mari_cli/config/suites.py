"""The section `suite`: what a model is asked besides the questions of its own corpora."""

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mari_cli.sections import Section, positive, require


@dataclass(kw_only=True)
class SuiteConfig(Section):
    """What a model is asked besides the questions of its own corpora; `corpora`: nothing. The kind is the
    module of `mari_cli.suites` that asks."""

    kind: str = "corpora"
    name: str = "corpora"


@dataclass(kw_only=True)
class TofuSuite(SuiteConfig):
    """TOFU (suites/tofu.py): forget quality, model utility, and what they are made of."""

    kind: str = "tofu"
    name: str = "tofu"
    path: str = "locuslab/TOFU"
    """A hub data set, or a folder with its subsets as files: `forget10_perturbed.json`, …"""
    split: str = "forget10"
    """`forget01`, `forget05` or `forget10`: which share of the authors is to be forgotten."""
    holdout: str | None = "auto"
    """The subset of authors that no model has seen, for membership inference; `auto`: that of the split, as
    `holdout10` for `forget10`; null: none is asked, and there is no membership inference."""
    items: int | None = None
    """Ask the first so many questions of each set, in TOFU's published evaluations 300; null: all."""
    max_new_tokens: int = 200
    """Of a generated answer (`metrics.generate`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("suite", self, "items", "max_new_tokens")
        require(
            re.fullmatch(r"forget\d\d", self.split) is not None,
            f"suite.split must be forget01, forget05 or forget10, got {self.split}",
        )


@dataclass(kw_only=True)
class MuseSuite(SuiteConfig):
    """MUSE (suites/muse.py): verbatim memorisation, knowledge, privacy leakage and utility."""

    kind: str = "muse"
    name: str = "muse"
    path: str = MISSING
    """A hub data set, or a folder with its subsets as folders: `knowmem/forget_qa.json`, …"""
    verbatim_tokens: int = 128
    """New tokens of a continued passage, and how many of the true ones it is compared with."""
    knowledge_tokens: int = 32
    """New tokens of an answer to a question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("suite", self, "verbatim_tokens", "knowledge_tokens")


@dataclass(kw_only=True)
class RwkuSuite(SuiteConfig):
    """RWKU (suites/rwku.py): what is known of famous people, and of their neighbours."""

    kind: str = "rwku"
    name: str = "rwku"
    path: str = "jinzhuoran/RWKU"
    """A hub data set, or a folder with its files: `forget_level1.json`, …"""
    subject: str | None = None
    """The one person who is to be forgotten, as `Stephen King`; null: all two hundred."""
    max_new_tokens: int = 30
    """Of a generated answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("suite", self, "max_new_tokens")


@dataclass(kw_only=True)
class OwnSuite(SuiteConfig):
    """A suite of the user's own (suites/own.py)."""

    kind: str = "own"
    name: str = "own"
    code: str | None = None
    """A Python file with a function `load(config)` that gives a suite."""
    path: str | None = None
    """Where its data is."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else it wants to be told."""

    def __post_init__(self) -> None:
        super().__post_init__()
