"""The configuration of one run as typed dataclasses: every key, its meaning, and its impossible values.

Each file is a section of the configuration. ``launch`` composes YAML of ``conf/`` with these schemas, and all
other code reads the dataclasses. ``__post_init__`` raises ValueError for an impossible value, and names the
key as the user types it. Import the names from this package, because its import registers the schemas.
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
    ForgetConfig,
    ForgetFictional,
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
from mari_cli.config.suites import MuseSuite, OwnSuite, PublishedSuite, RwkuSuite, SuiteConfig, TofuSuite
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
