"""Numbers at the end of what a configuration takes go through a whole run, or are refused in words."""

from tiny import TINY

from mari_cli import launch
from mari_cli.options import RunOptions
from mari_cli.storage.layout import CACHED
from mari_cli.tasks.unlearn import unlearn

HUGE = 2**62
KEYS = ["train.warmup_steps", "train.evaluate_every", "train.evaluate_items", "train.chunk",
        "train.micro_batch",
        "train.forget_batch", "train.retain_batch", "finetune.batch_size", "finetune.warmup_steps", "seed",
        "metrics.batch_size", "metrics.max_items", "metrics.examples", "metrics.max_new_tokens",
        "loss.context.neighbours", "loss.context.stored_tokens", "forget.limit"]  # fmt: skip


def test_the_largest_whole_numbers_mean_all_there_is(tmp_path):
    words = [*TINY, "train.steps=1", "loss=mari_context", *(f"{key}={HUGE}" for key in KEYS)]
    words += [f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"]
    result = unlearn(launch.configured(launch.Experiment("unlearn", words)), RunOptions(["mari"]))
    assert (tmp_path / "run" / "config.yaml").read_text().count(str(HUGE)) >= len(KEYS)
    assert result["models"]["unlearned"]["metrics"]["forget/answer_nll"]["value"] > 0
    assert {*CACHED} >= {path.name for path in (tmp_path / "cache").iterdir()}
