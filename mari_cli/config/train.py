"""The sections `train` and `finetune`: steps, optimiser, precision, memory, and when to stop."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from mari_cli.sections import Checked, Flag, flag, fraction, non_negative, positive, require

SIZE_UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


def bytes_of(text: str, key: str) -> int:
    """The bytes of a size such as `40GiB`. Raises ValueError, with the name ``key``, for another text."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", text)
    unit = {name.lower(): size for name, size in SIZE_UNITS.items()}.get(found[2].lower()) if found else None
    require(
        unit is not None and found is not None and 0 < float(found[1]) * unit < 2**63,
        f"{key} must be a size like 40GiB ({', '.join(SIZE_UNITS)}), got {text}",
    )
    assert found is not None
    assert unit is not None
    return round(float(found[1]) * unit)


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
    always = "always"  # YAML reads `on` and `off` as true and false, so the values have other names
    never = "never"


class Parallel(StrEnum):
    ddp = "ddp"
    fsdp = "fsdp"


@dataclass(kw_only=True)
class OptimConfig(Checked):
    """The keys of every training."""

    section = "train"
    lr: float = positive(1e-4)
    weight_decay: float = non_negative(0.0)
    warmup_steps: int = non_negative(0)
    schedule: Schedule = Schedule.constant
    max_grad_norm: float | None = positive(1.0)
    micro_batch: int | None = positive(None)
    """Sequences of each corpus per forward pass; null: the whole step. Changes memory, never the result
    (but see loss.pooling_scope)."""
    chunk: int | None = positive(None)
    """Positions whose logits are computed at the same time; null: as many as 128 MiB hold. Changes memory,
    never the result."""
    keep_logits: Flag | None = flag(None)
    """Whether to keep the logits of a loss that pools over the step, instead of computing them twice; null:
    if they need at most 2 GiB. Changes memory, never the result."""
    precision: Precision = Precision.auto
    device: Device = Device.auto
    optimizer: OptimizerName = OptimizerName.adamw
    """`adamw_8bit` keeps the moments of large tensors in 8 bits: 2 bytes per weight instead of 8, and another
    result."""
    weights: Weights = Weights.float32
    """Type of the model's weights during training. `bfloat16`: the gradients have this type, too, and the
    optimiser updates float32 copies of the trained weights; untrained weights (with LoRA) stay rounded."""
    gradient_checkpointing: Flag = flag(False)
    dropout: Flag = flag(False)
    """Whether to use the architecture's dropout. With dropout another `micro_batch`, packing, number of
    processes or choice of `memory` draws other masks, as another seed would."""
    packing: Packing = Packing.auto
    """Whether to put sequences into one row, where none sees another, instead of padding them to one length.
    `auto`: if the architecture allows this, which a trial before step 1 shows."""
    parallel: Parallel = Parallel.ddp
    """How several processes share a training. `ddp`: each keeps all weights; `fsdp`: each keeps its shards of
    weights, gradients and optimiser states. Changes memory, never the result."""
    memory: Memory = Memory.auto
    """The reaction, before step 1, to a step that does not fit `memory_limit`. `auto`: change `keep_logits`,
    `chunk`, `gradient_checkpointing` and `micro_batch` as needed, the cheapest first, and report the change;
    `as_configured`: stop with an error that names settings that would fit; `unchecked`: no check."""
    memory_limit: str | None = None
    """The memory for a step, as `40GiB`; null: the free memory of the CUDA device, and no limit on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_limit is not None:
            bytes_of(self.memory_limit, "train.memory_limit")
        require(
            self.weights is Weights.float32 or self.precision in (Precision.auto, Precision.bfloat16),
            f"train.weights=bfloat16 needs train.precision=bfloat16 or auto, got {self.precision}",
        )


@dataclass(kw_only=True)
class FinetuneConfig(OptimConfig):
    epochs: int = positive(10)
    batch_size: int = positive(16)
    until_accuracy: float | None = fraction(None)
    """Share of correctly predicted training tokens at which training stops; null: run all epochs."""
    evaluate_every: int = positive(1)
    """Epochs between two evaluations of the training accuracy, each with a state to resume from."""


class Keep(StrEnum):
    best = "best"
    last = "last"


@dataclass(kw_only=True)
class StopConfig(Checked):
    section = "train.stop"
    retain_drop: float | None = fraction(0.03)
    """Stop if retain validation accuracy falls by more than this in total (the paper's rule); null: off."""
    retain_patience: int = non_negative(50)
    """Steps for which it may stay below, for a method that holds the retain data wins back what its first
    steps lose. 0: stop at the first evaluation that finds it below, as the paper does."""
    at_holdout: Flag = flag(True)
    """Stop when the forget loss reaches the holdout loss (needs a holdout corpus)."""
    true_token_gap: float | None = None
    """Stop when the logit of the true tokens of the forget items exceeds that of the five likeliest
    alternatives by at most this, in nats (needs neither holdout nor gold); null: off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.true_token_gap is None or isfinite(self.true_token_gap),
            f"train.stop.true_token_gap must be a number of nats or null, got {self.true_token_gap}",
        )


@dataclass(kw_only=True)
class UnlearnConfig(OptimConfig):
    steps: int = positive(200)
    forget_batch: int = positive(16)
    retain_batch: int = positive(16)
    """Sequences of each corpus in one optimiser step."""
    evaluate_every: int = positive(20)
    """Steps between two evaluations, each with a state to resume from."""
    evaluate_items: int = positive(200)
    """The most items of each corpus in an evaluation during training."""
    evaluate_benchmarks: Flag = flag(False)
    """Whether these evaluations include `metrics.benchmarks`. With weights in shards (`train.parallel=fsdp`)
    all processes ask all questions, and no question may need a generated answer."""
    stop: StopConfig = field(default_factory=StopConfig)
    keep: Keep = Keep.best
    """`best`: of the states that the retain rule allows, the one whose forget loss is nearest to the holdout
    loss (without a holdout corpus: the last allowed state)."""
