"""The section `metrics`: what is measured, of how many items, and with which intervals."""

from dataclasses import dataclass, field

from mari_cli.sections import Flag, flags, non_negative, positive, require, seeds

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
        flags("metrics", self, "generate", "gradnorm", "marginal", "benchmark_chat_template")
        positive("metrics", self, "batch_size", "max_items", "max_new_tokens", "bootstrap", "benchmark_limit")
        seeds("metrics.", self, "seeds")
        require(
            self.bootstrap <= MOST_RESAMPLES,
            f"metrics.bootstrap must be at most {MOST_RESAMPLES}, got {self.bootstrap}: more tell no more",
        )
        require(
            self.seeds is None or (len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds)),
            f"metrics.seeds must be different seeds, at least one, or null; got {self.seeds}",
        )
        require(
            self.seeds is None or self.max_items is not None or self.generate,
            "metrics.seeds needs metrics.max_items: without it every item is measured, and nothing drawn",
        )
        non_negative("metrics", self, "examples", "fewshot")
        twice = [name for name in self.benchmarks if self.benchmarks.count(name) > 1]
        require(not twice, f"metrics.benchmarks names {twice[0] if twice else ''} twice")
        for name in ("min_k", "prior", "confidence"):
            value = getattr(self, name)
            require(0 < value < 1, f"metrics.{name} must be between 0 and 1, got {value}")
