"""One run as typed dataclasses: what can be asked for, what it means, and what is refused.

Hydra composes YAML of ``conf/`` on top of these (``launch``); past the launch everything reads
them as plain objects. ``__post_init__`` refuses an impossible value with a ValueError that names the
key as the user types it.
"""

import re
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from math import isfinite
from typing import Any

from omegaconf import MISSING, OmegaConf

from mari_cli.losses.base import LOSSES, LossConfig
from mari_cli.sections import SCHEMAS as SCHEMAS
from mari_cli.sections import Flag, Section
from mari_cli.sections import flags as _flags
from mari_cli.sections import fraction as _fraction
from mari_cli.sections import kinds_of as kinds_of
from mari_cli.sections import label as _label
from mari_cli.sections import non_negative as _non_negative
from mari_cli.sections import positive as _positive
from mari_cli.sections import require as _require
from mari_cli.sections import seeds as _seeds

SIZE_UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


def bytes_of(text: str, key: str) -> int:
    """A size as a user writes it, `40GiB`; ``key`` is where, for the message."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", text)
    unit = {name.lower(): size for name, size in SIZE_UNITS.items()}.get(found[2].lower()) if found else None
    _require(
        unit is not None and found is not None and 0 < float(found[1]) * unit < 2**63,
        f"{key} must be a size like 40GiB ({', '.join(SIZE_UNITS)}), got {text}",
    )
    assert found is not None
    assert unit is not None
    return round(float(found[1]) * unit)


# -- model ---------------------------------------------------------------------------------------------------


TODAY = date(2024, 7, 26)
"""What a chat template is told of the day: the date that Llama's writes where it is told none."""
LEAST_VOCABULARY = 258
"""Tokens of a byte-level vocabulary without any merge."""


class ChatTemplate(StrEnum):
    auto = "auto"  # the tokenizer's own template where it has one
    off = "off"


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters on top of frozen weights (E. Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
    Language Models", https://arxiv.org/abs/2106.09685). They are what the run itself trains; a target or gold
    model that it fine-tunes first is trained whole."""

    rank: int | None = None
    """null: no adapters, every weight is trained."""
    alpha: float | None = None
    """The adapters' product is scaled by alpha / rank; null: alpha is twice the rank."""
    dropout: float = 0.0
    """On the adapters' input; needs `train.dropout=true`."""
    targets: list[str] | None = None
    """Names of linear layers, as `q_proj`; null: all of them except the head."""
    merge: Flag = True
    """What `checkpoint/` holds: true: a plain model, with the adapters merged in; false: the adapters, with a
    note of the model that they belong to, which must then stay where it is."""

    def __post_init__(self) -> None:
        _flags("model.lora", self, "merge")
        _positive("model.lora", self, "rank", "alpha")
        _fraction("model.lora", self, "dropout", open_above=True)
        _require(self.targets is None or bool(self.targets), "model.lora.targets must not be empty")
        if self.rank is None:
            for name, off in (("alpha", None), ("dropout", 0.0), ("targets", None), ("merge", True)):
                _require(getattr(self, name) == off, f"model.lora.{name} needs model.lora.rank")


@dataclass(kw_only=True)
class ModelConfig:
    """Where the model comes from: ``path`` of an existing one, or ``architecture`` to build from scratch."""

    name: str = MISSING
    """Label in tables and run names."""
    path: str | None = None
    """A hub id, a directory that `save_pretrained` wrote, a run directory of mari, or a .gguf file."""
    revision: str | None = None
    trust_remote_code: Flag = False
    """true or false, and no number or word that might stand for one: true runs code of others."""
    architecture: dict[str, Any] | None = None
    """Fields of a transformers configuration, `model_type` among them; `vocab_size` follows the tokenizer."""
    tokenizer: str | None = None
    """Path or hub id; null: the model's own; `train`: a byte-level BPE trained on the run's own corpora."""
    tokenizer_vocab_size: int = 2048
    """Size of a tokenizer that is trained on the spot, in tokens."""
    max_length: int | None = None
    """Longest sequence in tokens; null: the model's context."""
    chat_template: ChatTemplate = ChatTemplate.auto
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    """What the chat template is told besides, as `+model.chat_template_args.enable_thinking=false`."""
    chat_template_date: str = TODAY.isoformat()
    """The date that a chat template writes where it asks for that of the day: one that changed would change
    every prompt."""
    system_prompt: str | None = None
    """Said before every prompt; a conversation with a system turn of its own keeps that one. Where no chat
    template applies it stands before the prompt, with an empty line between."""
    prompt_template: str = "Question: {prompt}\nAnswer: "
    """How a prompt is written where no chat template applies; the completion follows it directly. Of a
    conversation each question is written so, and each answer is followed by an empty line."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        _label("model", self)
        _positive("model", self, "max_length")
        _require(
            self.tokenizer_vocab_size >= LEAST_VOCABULARY,
            f"model.tokenizer_vocab_size must be >= {LEAST_VOCABULARY} (every byte, BOS and EOS), "
            f"got {self.tokenizer_vocab_size}",
        )
        _require(
            self.tokenizer_vocab_size <= 2**20,
            f"model.tokenizer_vocab_size must be at most {2**20}, got {self.tokenizer_vocab_size}",
        )
        _flags("model", self, "trust_remote_code")
        _require(
            self.path is None or self.architecture is None,
            "model.path and model.architecture exclude each other",
        )
        _require(
            "{prompt}" in self.prompt_template,
            "model.prompt_template must contain {prompt}",
            """e.g. 'model.prompt_template="Q: {prompt} A: "'""",
        )
        for name in ("prompt_template", "system_prompt"):
            value = getattr(self, name)
            words = "Q: {prompt}" if name == "prompt_template" else "Be brief."
            _require(
                value is None or not re.search(r"\\[nrt]", value),
                f"model.{name} has a backslash and a letter where it may mean a line break or a tab",
                f"""in a shell, write $'model.{name}="{words}\\n"'; in YAML, "{words}\\n" in double quotes""",
            )
        _require(
            self.system_prompt is None or bool(self.system_prompt.strip()),
            "model.system_prompt must not be empty; null: there is none",
        )
        try:
            date.fromisoformat(self.chat_template_date)
        except ValueError:
            message = f"model.chat_template_date must be a date like {TODAY}, got {self.chat_template_date}"
            _require(False, message)


# -- corpora -------------------------------------------------------------------------------------------------


class Form(StrEnum):
    qa = "qa"
    prose = "prose"
    both = "both"


@dataclass(kw_only=True)
class CorpusConfig(Section):
    """What every corpus has."""

    limit: int | None = None
    """Keep the first so many records."""
    block_size: int | None = None
    """Tokens in a block of running text; null: the longest sequence the model takes."""
    truncate: Flag = False
    """Cut a prompt/completion pair that does not fit the context, rather than refuse it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _flags("corpus", self, "truncate")
        _positive("corpus", self, "limit", "block_size")


@dataclass(kw_only=True)
class FictionalCorpus(CorpusConfig):
    """People of an invented archive (data/fictional.py)."""

    kind: str = "fictional"
    people: int = 20
    seed: int = 0
    """Seed of the world: towns, prizes, people."""
    overlap: float = 0.5
    """Share of a person's facts that documents of other people state too, in [0, 1]."""
    form: Form = Form.qa

    def __post_init__(self) -> None:
        super().__post_init__()
        _seeds("corpus.", self, "seed")
        _positive("corpus", self, "people")
        _fraction("corpus", self, "overlap")


@dataclass(kw_only=True)
class FileCorpus(CorpusConfig):
    """Text of the user's: a file, a folder, or a data set of the hub by name."""

    kind: str = "files"
    path: str | None = None
    """.jsonl .json .csv .parquet .txt, a folder of them, or a hub data set; null: no such corpus."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    prompt_field: str | None = None
    completion_field: str | None = None
    text_field: str | None = None
    """Fields to read; null: the first of `prompt`/`completion`, `question`/`answer`, `messages`,
    `conversations`, `instruction`/`input`/`output` and `text` that is there."""
    passage_characters: int = 1000
    """Plain text is read as passages: whole paragraphs, joined to at least so many characters each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("corpus", self, "passage_characters")
        _require(
            (self.prompt_field is None) == (self.completion_field is None),
            "prompt_field and completion_field go together: set both or neither",
        )
        _require(
            self.text_field is None or self.prompt_field is None,
            "text_field excludes prompt_field and completion_field",
        )


@dataclass(kw_only=True)
class ForgetFiles(FileCorpus):
    fraction: float | None = None
    """Forget this share of the one text at `path`, drawn by `fraction_seed`; the rest is retain corpus."""
    fraction_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _seeds("forget.", self, "fraction_seed")
        _require(
            self.fraction is None or 0 < self.fraction < 1,
            f"forget.fraction must be between 0 and 1, got {self.fraction}",
        )


@dataclass(kw_only=True)
class RetainConfig(CorpusConfig):
    """What only the retain corpus has."""

    drop_overlap: Flag = False
    """Leave out retain records that are forget records too, rather than refuse the pair of corpora."""
    validation_fraction: float = 0.0
    """Share of the retain records that unlearning never trains on, for the stop rule to watch; 0: it watches
    records that are trained on. What is held out is not protected (experiments/tofu_stories15m)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _flags("retain", self, "drop_overlap")
        _fraction("retain", self, "validation_fraction", open_above=True)


@dataclass(kw_only=True)
class RetainFictional(FictionalCorpus, RetainConfig):
    kind: str = "fictional"


@dataclass(kw_only=True)
class RetainFiles(FileCorpus, RetainConfig):
    kind: str = "files"


# -- training ------------------------------------------------------------------------------------------------


class Precision(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class OptimizerName(StrEnum):
    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


class Weights(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Memory(StrEnum):
    auto = "auto"
    as_configured = "as_configured"
    unchecked = "unchecked"


class Schedule(StrEnum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class Packing(StrEnum):
    auto = "auto"
    always = "always"  # not `on` and `off`: in YAML these are true and false
    never = "never"


class Parallel(StrEnum):
    ddp = "ddp"
    fsdp = "fsdp"


@dataclass(kw_only=True)
class OptimConfig:
    """What every training has."""

    lr: float = 1e-4
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Schedule = Schedule.constant
    max_grad_norm: float | None = 1.0
    micro_batch: int | None = None
    """Sequences of each corpus per forward pass; null: the whole step. Changes memory, never the result
    (but see loss.pooling_scope)."""
    chunk: int | None = None
    """Positions whose logits are made at one time; null: what 128 MiB hold. Changes memory, never the
    result."""
    keep_logits: Flag | None = None
    """Hold the logits of a loss that pools over the step until its pool is averaged, instead of making them
    twice; null: where they take at most 2 GiB. Changes memory, never the result."""
    precision: Precision = Precision.auto
    device: Device = Device.auto
    optimizer: OptimizerName = OptimizerName.adamw
    """`adamw_8bit` keeps the moments of large tensors in 8 bits: 2 bytes a weight instead of 8, and another
    trajectory."""
    weights: Weights = Weights.float32
    """What the model's weights are held in while it is trained. `bfloat16`: so are the gradients, while the
    optimiser steps float32 copies of what is trained; what is not trained (under LoRA) stays rounded."""
    gradient_checkpointing: Flag = False
    dropout: Flag = False
    """Keep the architecture's dropout. Off, a loss is the same however a step is cut; on, another
    `micro_batch`, packing or number of processes draws other masks, as another seed would, and so does what
    `memory` chooses."""
    packing: Packing = Packing.auto
    """Lay sequences end to end in one row, none seeing another, instead of padding them to one length.
    `auto`: where the architecture allows it, which is tried out before step 1."""
    parallel: Parallel = Parallel.ddp
    """How several processes share a training. `ddp`: each keeps all weights; `fsdp`: each keeps its shards of
    weights, gradients and optimiser states. Changes memory, never the result."""
    memory: Memory = Memory.auto
    """What happens before step 1 to a step that does not fit `memory_limit`. `auto`: of `keep_logits`,
    `chunk`, `gradient_checkpointing` and `micro_batch` as much is changed as it takes, the cheapest first,
    and it is said; `as_configured`: it is refused, with the settings that would fit; `unchecked`: nobody
    looks."""
    memory_limit: str | None = None
    """`40GiB`, say; null: what the CUDA device has free, and no limit on a CPU."""

    def __post_init__(self) -> None:
        _flags("train", self, "gradient_checkpointing", "dropout", "keep_logits", null="keep_logits")
        _positive("train", self, "lr", "max_grad_norm", "micro_batch", "chunk")
        if self.memory_limit is not None:
            bytes_of(self.memory_limit, "train.memory_limit")
        _non_negative("train", self, "weight_decay", "warmup_steps")
        _require(
            self.weights is Weights.float32 or self.precision in (Precision.auto, Precision.bfloat16),
            f"train.weights=bfloat16 needs train.precision=bfloat16 or auto, got {self.precision}",
        )


@dataclass(kw_only=True)
class FinetuneConfig(OptimConfig):
    epochs: int = 10
    batch_size: int = 16
    until_accuracy: float | None = None
    """Stop once this share of the training tokens is predicted right; null: run all epochs."""
    evaluate_every: int = 1
    """Epochs between two looks at the training accuracy, each with a checkpoint to resume from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("train", self, "epochs", "batch_size", "evaluate_every")
        _fraction("train", self, "until_accuracy")


class Keep(StrEnum):
    best = "best"
    last = "last"


@dataclass(kw_only=True)
class StopConfig:
    retain_drop: float | None = 0.03
    """Stop if retain validation accuracy is more than this below its start (the paper's rule); null: off."""
    at_holdout: Flag = True
    """Stop when the forget loss has reached the holdout's (needs a holdout corpus)."""
    true_token_gap: float | None = None
    """Stop when the true tokens of the forget items stand out over the five likeliest alternatives by at most
    this, a difference of logits in nats (needs neither holdout nor gold); null: off."""

    def __post_init__(self) -> None:
        _flags("train.stop", self, "at_holdout")
        _fraction("train.stop", self, "retain_drop")
        _require(
            self.true_token_gap is None or isfinite(self.true_token_gap),
            f"train.stop.true_token_gap must be a number of nats or null, got {self.true_token_gap}",
        )


@dataclass(kw_only=True)
class UnlearnConfig(OptimConfig):
    steps: int = 200
    forget_batch: int = 16
    retain_batch: int = 16
    """Sequences of either corpus in one optimiser step."""
    evaluate_every: int = 20
    """Steps between two evaluations, each with a checkpoint to resume from."""
    evaluate_items: int = 200
    """At most so many items of each corpus in an evaluation during training."""
    evaluate_benchmarks: Flag = False
    """Ask those of `metrics.benchmarks` in each of these evaluations too. Of weights in shards
    (`train.parallel=fsdp`) all processes ask all questions, and none may want a generated answer."""
    stop: StopConfig = field(default_factory=StopConfig)
    keep: Keep = Keep.best
    """`best`: of the checkpoints that the retain rule allows, the one whose forget loss is nearest the
    holdout's (without a holdout: the last one allowed)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _flags("train", self, "evaluate_benchmarks")
        _positive("train", self, "steps", "forget_batch", "retain_batch", "evaluate_every", "evaluate_items")


# -- measuring and tracking ----------------------------------------------------------------------------------


MOST_RESAMPLES = 100_000
"""An interval's ends are then known to a hundredth of its length."""


@dataclass(kw_only=True)
class MetricsConfig:
    batch_size: int = 32
    """Sequences in one forward pass."""
    max_items: int | None = None
    """Measure at most so many items of each corpus, drawn by the seed; null: all."""
    seeds: list[int] | None = None
    """Draw what is measured once for each of these and measure all that was drawn; null: the run's seed."""
    generate: Flag = True
    """Let the model answer every forget question, and as many of the others, in its own words."""
    max_new_tokens: int = 64
    min_k: float = 0.4
    """Share of the least likely tokens that min-k and min-k++ look at."""
    gradnorm: Flag = False
    """Membership by the gradient's norm too: a backward pass for each forget and holdout item."""
    mia_reference: str | None = None
    """Path of another model with the same tokenizer, one that knows such text but neither the forget nor the
    holdout items: membership by how far the loss is below that model's; null: not measured."""
    marginal: Flag = True
    prior: float = 0.5
    bootstrap: int = 1000
    """Resamples behind an interval."""
    confidence: float = 0.95
    benchmarks: list[str] = field(default_factory=lambda: ["mmlu_sample"])
    """Tasks or groups of lm_eval by name, `mmlu`, `arc_easy`, `wikitext`; `mmlu_sample`: the 281 questions
    that lm_eval carries as few-shot examples, which need no network."""
    benchmark_limit: int | None = None
    """The first so many questions of each task, of MMLU in each subject; null: all."""
    benchmark_root: str | None = None
    """A folder to read the questions from, with a folder in it for each data set of the hub, by its name;
    null: the hub, or what was fetched from it before."""
    benchmark_chat_template: Flag = False
    """Ask through the tokenizer's chat template; published figures of most benchmarks are made without."""
    fewshot: int | None = None
    """Answered examples before each question of a benchmark; null: as many as the task itself says. A task
    that says 0 keeps to it."""
    examples: int = 8
    """Forget questions shown word by word in the report; 0: no text of a corpus is written anywhere."""

    def __post_init__(self) -> None:
        _flags("metrics", self, "generate", "gradnorm", "marginal", "benchmark_chat_template")
        _positive(
            "metrics", self, "batch_size", "max_items", "max_new_tokens", "bootstrap", "benchmark_limit"
        )
        _seeds("metrics.", self, "seeds")
        _require(
            self.bootstrap <= MOST_RESAMPLES,
            f"metrics.bootstrap must be at most {MOST_RESAMPLES}, got {self.bootstrap}: more tell no more",
        )
        _require(
            self.seeds is None or (len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds)),
            f"metrics.seeds must be different seeds, at least one, or null; got {self.seeds}",
        )
        _require(
            self.seeds is None or self.max_items is not None or self.generate,
            "metrics.seeds needs metrics.max_items: without it every item is measured, and nothing drawn",
        )
        _non_negative("metrics", self, "examples", "fewshot")
        twice = [name for name in self.benchmarks if self.benchmarks.count(name) > 1]
        _require(not twice, f"metrics.benchmarks names {twice[0] if twice else ''} twice")
        for name in ("min_k", "prior", "confidence"):
            value = getattr(self, name)
            _require(0 < value < 1, f"metrics.{name} must be between 0 and 1, got {value}")


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
        _positive("suite", self, "items", "max_new_tokens")
        _require(
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
        _positive("suite", self, "verbatim_tokens", "knowledge_tokens")


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
        _positive("suite", self, "max_new_tokens")


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


class WandbMode(StrEnum):
    auto = "auto"  # online with a key, offline without
    online = "online"
    offline = "offline"


@dataclass(kw_only=True)
class TrackerConfig(Section):
    kind: str = "none"


@dataclass(kw_only=True)
class WandbConfig(TrackerConfig):
    kind: str = "wandb"
    project: str = "mari"
    entity: str | None = None
    mode: WandbMode = WandbMode.auto
    tags: list[str] = field(default_factory=list)


# -- runs ----------------------------------------------------------------------------------------------------


class TargetChoice(StrEnum):
    auto = "auto"  # fine-tune a model that is built from an architecture, take any other as it is
    finetune = "finetune"
    as_is = "as_is"


class Corpora(StrEnum):
    both = "both"
    retain = "retain"
    forget = "forget"


@dataclass(kw_only=True)
class RunConfig:
    """What every run has."""

    task: str = MISSING
    """The command that does it: each class has its own, and no other is taken."""
    seed: int = 0
    out: str = MISSING
    """The run directory; it must not exist yet."""
    cache: str = MISSING
    """Where targets and gold models are kept, keyed by the content of everything that determines them."""
    model: ModelConfig = MISSING
    forget: CorpusConfig = MISSING
    retain: RetainConfig = MISSING
    holdout: CorpusConfig = MISSING
    """Data like the forget data that no model has seen: what membership inference compares with."""
    metrics: MetricsConfig = MISSING
    tracker: TrackerConfig = MISSING

    def __post_init__(self) -> None:
        own = type(self).task
        _require(
            self.task == own, f"task is {own} here, got {self.task}", "the command chooses it: leave it out"
        )
        _seeds("", self, "seed")


def _require_dropout(model: ModelConfig, train: OptimConfig) -> None:
    if isinstance(model, ModelConfig) and isinstance(train, OptimConfig):  # neither is MISSING
        _require(
            model.lora.dropout == 0 or train.dropout,
            f"model.lora.dropout={model.lora.dropout} needs train.dropout=true",
        )


@dataclass(kw_only=True)
class FinetuneRun(RunConfig):
    task: str = "finetune"
    train: FinetuneConfig = MISSING
    corpora: Corpora = Corpora.both
    """Which corpora to train on: `both` makes a target, `retain` a gold model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_dropout(self.model, self.train)


@dataclass(kw_only=True)
class UnlearnRun(RunConfig):
    task: str = "unlearn"
    loss: LossConfig = MISSING
    train: UnlearnConfig = MISSING
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    """A benchmark protocol, asked besides the questions of the corpora."""
    finetune: FinetuneConfig = MISSING
    """How target and gold are trained, where the run trains them."""
    target: TargetChoice = TargetChoice.auto
    """The model to unlearn: `model` as it is, or fine-tuned on forget + retain first."""
    gold: str = "auto"
    """The model that never saw the forget data: `finetune` (on retain alone), `none`, a path, or `auto`:
    `finetune` where the target is fine-tuned here, else `none`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_dropout(self.model, self.train)
        _require_one_split(self.forget, self.retain, self.suite)


def _require_one_split(forget: CorpusConfig, retain: CorpusConfig, suite: SuiteConfig) -> None:
    """TOFU's splits of its authors belong together."""
    if not isinstance(forget, ForgetFiles) or not re.fullmatch(r"forget\d\d", forget.subset or ""):
        return
    split = str(forget.subset)
    rest = f"retain{100 - int(split[-2:])}"
    _require(
        not isinstance(retain, RetainFiles) or retain.path != forget.path or retain.subset == rest,
        f"retain.subset must be {rest} beside forget.subset={split}, got "
        f"{getattr(retain, 'subset', None)}; forget=tofu_{split} chooses both",
    )
    _require(
        not isinstance(suite, TofuSuite) or suite.split == split,
        f"suite.split must be forget.subset, {split}, got {getattr(suite, 'split', None)}",
    )


@dataclass(kw_only=True)
class EvaluateRun(RunConfig):
    task: str = "evaluate"
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    """A benchmark protocol, asked instead of the questions of the corpora."""
    gold: str = "none"
    """Path of a gold model to measure beside, or `none`."""
    from_log: Any = None
    """Instead of a model: the log of a TOFU evaluation, whose numbers are computed again; a folder of logs;
    or a list of such."""
    gold_log: str | None = None
    """The log of the retain model's evaluation, for forget quality."""
    target_log: str | None = None
    """The log of the evaluation before unlearning, for the overall score."""
    device: Device = Device.auto
    precision: Precision = Precision.auto

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            not isinstance(self.model, ModelConfig) or self.model.lora.rank is None,
            "model.lora.rank must be null here: an evaluation trains nothing",
        )
        logs = self.from_log if isinstance(self.from_log, list) else [self.from_log]
        _require(
            self.from_log is None or (bool(logs) and all(isinstance(log, str) and log for log in logs)),
            f"from_log must be a path or a list of paths, got {self.from_log}",
        )
        _require(self.gold_log is None or self.from_log is not None, "gold_log needs from_log")
        _require(self.target_log is None or self.from_log is not None, "target_log needs from_log")
        _require(
            self.from_log is None or self.gold == "none",
            "from_log measures no model, so gold must be none: gold_log is the log of a gold model",
        )
        _require(
            self.suite.kind == "corpora"
            or not isinstance(self.metrics, MetricsConfig)
            or self.metrics.seeds is None
            or self.metrics.max_items is not None,
            "metrics.seeds needs metrics.max_items: without it every question of the suite is asked",
        )


SCHEMAS.update(
    {
        "finetune": FinetuneRun,
        "unlearn": UnlearnRun,
        "evaluate": EvaluateRun,
        "model/base": ModelConfig,
        "forget/fictional": FictionalCorpus,
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
    """A configuration as config.yaml holds it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
