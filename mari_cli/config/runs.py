"""A whole configuration: one run of `mari finetune`, `unlearn`, `evaluate` or `audit`."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from mari_cli.config.audit import AuditConfig
from mari_cli.config.corpora import CorpusConfig, ForgetConfig, ForgetFiles, RetainConfig, RetainFiles
from mari_cli.config.metrics import MetricsConfig
from mari_cli.config.model import ModelConfig
from mari_cli.config.request import RequestConfig
from mari_cli.config.suites import SuiteConfig, TofuSuite
from mari_cli.config.tracker import TrackerConfig
from mari_cli.config.train import Device, FinetuneConfig, OptimConfig, Parallel, Precision, UnlearnConfig
from mari_cli.losses.base import LossConfig
from mari_cli.sections import Checked, require, seeds


class TargetChoice(StrEnum):
    auto = "auto"  # fine-tune a model from an architecture, use any other model unchanged
    finetune = "finetune"
    as_is = "as_is"


class Corpora(StrEnum):
    both = "both"
    retain = "retain"
    forget = "forget"


@dataclass(kw_only=True)
class RunConfig(Checked):
    """The keys of every run."""

    task: str = MISSING
    """The command of the run. Each class accepts only its own command."""
    seed: int = seeds(0)
    out: str = MISSING
    """The run directory, which must not exist yet."""
    cache: str = MISSING
    """The directory of cached models, keyed by the content of everything that determines them."""
    model: ModelConfig = MISSING
    forget: CorpusConfig = MISSING
    retain: RetainConfig = MISSING
    holdout: CorpusConfig = MISSING
    """Data like the forget data that no model has seen, for membership inference."""
    metrics: MetricsConfig = MISSING
    tracker: TrackerConfig = MISSING
    request: RequestConfig = field(default_factory=RequestConfig)
    """The request for erasure behind the run, if any, and the key that signs its manifest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = type(self).task
        require(
            self.task == own, f"task is {own} here, got {self.task}", "the command chooses it: leave it out"
        )


@dataclass(kw_only=True)
class FinetuneRun(RunConfig):
    task: str = "finetune"
    train: FinetuneConfig = MISSING
    corpora: Corpora = Corpora.both
    """The training corpora: `both` gives a target, `retain` gives a gold model."""


@dataclass(kw_only=True)
class UnlearnRun(RunConfig):
    task: str = "unlearn"
    loss: LossConfig = MISSING
    train: UnlearnConfig = MISSING
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    """A benchmark, whose questions are asked in addition to those of the corpora."""
    finetune: FinetuneConfig = MISSING
    """The training of target and gold, if the run trains them."""
    target: TargetChoice = TargetChoice.auto
    """The model to unlearn: `model` unchanged, or first fine-tuned on forget + retain."""
    gold: str = "auto"
    """The model that never saw the forget data: `finetune` (on retain only), `none`, a path, or `auto`, which
    is `finetune` if the run fine-tunes the target, else `none`. With `forget.requests` also `each`: a gold
    model after each request, trained without this request and those before it."""
    audit: AuditConfig | None = None
    """The attacks on target, unlearned model and gold at the end of the run; null: none."""
    second_gold: str = "none"
    """For the audit, a gold model of another seed, or `none`: how much two golds differ is the floor of what
    tells the model from gold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_whole_weights(self.loss, self.model, self.train)
        _require_one_split(self.forget, self.retain, self.suite)
        require(
            self.gold != "each" or self.in_turn,
            "gold=each is a gold model after each request, so it needs forget.requests",
        )
        require(
            self.audit is None or not self.in_turn,
            "audit must be null with forget.requests; `mari audit` takes the run of each request afterwards",
        )

    @property
    def finetunes_target(self) -> bool:
        from_scratch = self.target is TargetChoice.auto and self.model.architecture is not None
        return from_scratch or self.target is TargetChoice.finetune

    @property
    def finetunes_gold(self) -> bool:
        """Whether the run trains its gold model itself."""
        return self.gold in ("finetune", "each") or (self.gold == "auto" and self.finetunes_target)

    @property
    def in_turn(self) -> bool:
        """Whether the run unlearns several requests, one after another."""
        forget = self.forget
        return isinstance(forget, ForgetConfig) and forget.requests is not None and not forget.request_number


def _require_whole_weights(loss: object, model: object, train: object) -> None:
    """Refuse adapters and shards for a loss that works on weights or gradients and so needs all weights."""
    if not isinstance(loss, LossConfig):  # loss may be MISSING
        return
    if loss.negation is None and loss.gradient_filter is None:
        return
    _require_no_adapters(model, f"for loss={loss.kind}, which works on the model's own weights")
    require(
        not isinstance(train, OptimConfig) or train.parallel is not Parallel.fsdp,
        f"train.parallel must be ddp for loss={loss.kind}, which needs the weights whole",
    )


def _require_no_adapters(model: Any, why: str) -> None:
    adapted = isinstance(model, ModelConfig) and model.lora.rank is not None  # model may be MISSING
    require(not adapted, f"model.lora.rank must be null {why}")


def _require_one_split(forget: CorpusConfig, retain: CorpusConfig, suite: SuiteConfig) -> None:
    """Refuse corpora of TOFU whose splits do not fit together."""
    if not isinstance(forget, ForgetFiles) or not re.fullmatch(r"forget\d\d", forget.subset or ""):
        return
    split = str(forget.subset)
    rest = f"retain{100 - int(split[-2:])}"
    require(
        not isinstance(retain, RetainFiles) or retain.path != forget.path or retain.subset == rest,
        f"retain.subset must be {rest} beside forget.subset={split}, got "
        f"{getattr(retain, 'subset', None)}; forget=tofu_{split} chooses both",
    )
    require(
        not isinstance(suite, TofuSuite) or suite.split == split,
        f"suite.split must be forget.subset, {split}, got {getattr(suite, 'split', None)}",
    )


@dataclass(kw_only=True)
class EvaluateRun(RunConfig):
    task: str = "evaluate"
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    """A benchmark, whose questions are asked in place of those of the corpora."""
    gold: str = "none"
    """Path of a gold model, which is measured, too; or `none`."""
    before: str = "none"
    """Path of the model before unlearning, which is measured, too; or `none`."""
    from_log: Any = None
    """The log of a TOFU evaluation, in place of a model, whose numbers are computed again; a folder of logs;
    or a list of these."""
    gold_log: str | None = None
    """The log of the retain model's evaluation, for forget quality."""
    target_log: str | None = None
    """The log of the evaluation before unlearning, for the overall score."""
    device: Device = Device.auto
    precision: Precision = Precision.auto

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_no_adapters(self.model, "here: an evaluation trains nothing")
        logs = self.from_log if isinstance(self.from_log, list) else [self.from_log]
        require(
            self.from_log is None or (bool(logs) and all(isinstance(log, str) and log for log in logs)),
            f"from_log must be a path or a list of paths, got {self.from_log}",
        )
        beside = {"gold": ("gold_log", "of a gold model"), "before": ("target_log", "from before")}
        for key, (log, what) in beside.items():
            require(getattr(self, log) is None or self.from_log is not None, f"{log} needs from_log")
            require(
                self.from_log is None or getattr(self, key) == "none",
                f"from_log measures no model, so {key} must be none: {log} is the log {what}",
            )


@dataclass(kw_only=True)
class AuditRun(RunConfig):
    task: str = "audit"
    audit: AuditConfig = MISSING
    gold: str = "auto"
    """The model that never saw the forget data: a path, `none`, or `auto` (the gold model of the run)."""
    before: str = "auto"
    """The model before unlearning: a path, `none`, or `auto` (the target of the run)."""
    second_gold: str = "none"
    """A gold model of another seed, or `none`: how much two golds differ is the floor of what tells the model
    from gold."""
    device: Device = Device.auto
    precision: Precision = Precision.auto

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_no_adapters(self.model, "here: an audit trains nothing that is kept")
