"""The section `metrics`: the measurements, their numbers of items, and their intervals."""

from dataclasses import dataclass, field
from math import ceil

from mari_cli.sections import Checked, Flag, between, flag, non_negative, positive, require, seeds

MOST_RESAMPLES = 100_000
"""The most resamples. With so many, the ends of an interval are exact to a hundredth of its length."""


@dataclass(kw_only=True)
class MetricsConfig(Checked):
    section = "metrics"
    batch_size: int = positive(32)
    """Sequences in one forward pass."""
    max_items: int | None = positive(None)
    """The most items of each corpus that are measured, drawn by the seed; null: all."""
    seeds: list[int] | None = seeds(None)
    """Seeds. Items are drawn once for each seed, and all drawn items are measured; null: the run's seed."""
    generate: Flag = flag(True)
    """Whether the model generates answers to every forget question and to as many others."""
    max_new_tokens: int = positive(64)
    min_k: float = between(0.4)
    """Share of the least likely tokens from which min-k and min-k++ are computed."""
    gradnorm: Flag = flag(False)
    """Whether membership is also measured by the gradient's norm: one backward pass for each item."""
    mia_reference: str | None = None
    """Path of a reference model for membership inference, which compares its loss with the model's. The
    reference has the same tokenizer, and knows similar text but no forget or holdout items; null: none."""
    marginal: Flag = flag(True)
    prior: float = between(0.5)
    bootstrap: int = positive(1000)
    """Number of bootstrap resamples for an interval."""
    confidence: float = between(0.95)
    benchmarks: list[str] = field(default_factory=lambda: ["mmlu_sample"])
    """Names of tasks or groups of lm_eval, as `mmlu`, `arc_easy`, `wikitext`. `mmlu_sample` is the 281
    few-shot examples of MMLU in lm_eval, which need no network."""
    benchmark_limit: int | None = positive(None)
    """The most questions of each task (of MMLU: of each subject), from the first on; null: all."""
    benchmark_root: str | None = None
    """A folder with the questions, in one folder for each data set of the hub, with its name; null: the hub,
    or the files that were downloaded before."""
    benchmark_chat_template: Flag = flag(False)
    """Whether to ask with the tokenizer's chat template; most published results are without it."""
    fewshot: int | None = non_negative(None)
    """Answered examples before each question of a benchmark; null: the task's own number. A task with the
    number 0 always has 0."""
    examples: int = non_negative(8)
    """Number of forget questions that the report shows as text; 0: no text of a corpus is written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.bootstrap <= MOST_RESAMPLES,
            f"metrics.bootstrap must be at most {MOST_RESAMPLES}, got {self.bootstrap}: more tell no more",
        )
        require(
            self.seeds is None or (len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds)),
            f"metrics.seeds must be different seeds, at least one, or null; got {self.seeds}",
        )
        twice = [name for name in self.benchmarks if self.benchmarks.count(name) > 1]
        require(not twice, f"metrics.benchmarks names {twice[0] if twice else ''} twice")
        least = ceil(round(1 / (1 - self.confidence), 6))  # one resample lies outside the interval
        require(
            self.bootstrap >= least,
            f"metrics.bootstrap must be >= {least} where metrics.confidence={self.confidence}, "
            f"got {self.bootstrap}",
        )
