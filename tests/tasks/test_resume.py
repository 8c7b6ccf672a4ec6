"""A run that is killed goes on, and ends where it would have ended, to the last bit."""

import json
from pathlib import Path

import pytest
from forked import Forked
from tiny import TINY

pytestmark = pytest.mark.slow
STEPS = 12


def rows(run: Path) -> list[dict]:
    """metrics.jsonl without what measures time."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "tokens_per_second")
    return [{key: value for key, value in row.items() if key not in clocks} for row in found]


CASES = {
    "mari": ["loss=mari"],
    "npo": ["loss=npo"],
    # of a rank that makes some of them large enough for 8 bits
    "bfloat16 weights, adapters, 8 bits": ["loss=mari", "train.weights=bfloat16", "model.lora.rank=32",
                                           "train.lr=1e-2", "train.optimizer=adamw_8bit"],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_resumes_to_the_same_bits(case, tmp_path, cache):
    if "adamw_8bit" in " ".join(CASES[case]):
        pytest.importorskip("torchao", reason="needs torchao: pip install 'mari-cli[8bit]'")
    arguments = [*TINY, *CASES[case], f"cache={cache}", f"train.steps={STEPS}", "train.evaluate_every=3",
                 "train.stop.retain_drop=null", "train.stop.at_holdout=false"]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = tmp_path / "told"
    Forked("unlearn", *arguments, f"out={whole}", told=told).finish()

    Forked("unlearn", *arguments, f"out={cut}", told=told).kill_after(cut, 5)  # between two checkpoints
    assert not (cut / "result.json").exists()
    Forked("unlearn", "--resume", str(cut), told=told).finish()

    assert (cut / "checkpoint" / "model.safetensors").read_bytes() == (
        whole / "checkpoint" / "model.safetensors"
    ).read_bytes()
    assert rows(cut) == rows(whole)
    one, other = (json.loads((run / "result.json").read_text()) for run in (cut, whole))
    assert one["models"] == other["models"]
    assert one["training"] == other["training"]


def test_a_killed_fine_tuning_resumes_to_the_same_bits(tmp_path, cache):
    tiny = [item.replace("finetune.", "train.") for item in TINY if not item.startswith("train.")]
    arguments = [*tiny, f"cache={cache}", "train.epochs=6", "train.batch_size=8"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = tmp_path / "told"
    Forked("finetune", *arguments, f"out={whole}", told=told).finish()

    Forked("finetune", *arguments, f"out={cut}", told=told).kill_after(cut, 10)
    Forked("finetune", "--resume", str(cut), told=told).finish()
    assert (cut / "checkpoint" / "model.safetensors").read_bytes() == (
        whole / "checkpoint" / "model.safetensors"
    ).read_bytes()
    assert rows(cut) == rows(whole)
