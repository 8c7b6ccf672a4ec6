"""One run as typed dataclasses: what can be asked for, what it means, and what is refused.

Hydra composes YAML of ``conf/`` on top of these (``launch``); past the launch everything reads them as plain
objects. ``__post_init__`` refuses an impossible value with a ValueError that names the key as the user types
it. A file here is a section of the configuration. The names are imported from this package: importing it is
what registers the schemas.
"""

from mari_cli.config.audit import (
    AuditConfig,
    PromptsConfig,
    QuantisationConfig,
    RelearningConfig,
    SamplingConfig,
)
from mari_cli.config.corpora import (
    CorpusConfig,
    FictionalCorpus,
    FileCorpus,
    ForgetFiles,
    Form,
    RetainConfig,
    RetainFictional,
    RetainFiles,
)
from mari_cli.config.metrics import MetricsConfig
from mari_cli.config.model import LEAST_VOCABULARY, TODAY, ChatTemplate, LoraConfig, ModelConfig
from mari_cli.config.request import RequestConfig
from mari_cli.config.runs import (
    AuditRun,
    Corpora,
    EvaluateRun,
    FinetuneRun,
    RunConfig,
    TargetChoice,
    UnlearnRun,
)
from mari_cli.config.schemas import to_plain, to_yaml
from mari_cli.config.suites import MuseSuite, OwnSuite, RwkuSuite, SuiteConfig, TofuSuite
from mari_cli.config.tracker import TrackerConfig, WandbConfig, WandbMode
from mari_cli.config.train import (
    Device,
    FinetuneConfig,
    Keep,
    Memory,
    OptimConfig,
    OptimizerName,
    Packing,
    Parallel,
    Precision,
    Schedule,
    StopConfig,
    UnlearnConfig,
    Weights,
    bytes_of,
)
from mari_cli.sections import SCHEMAS, kinds_of
