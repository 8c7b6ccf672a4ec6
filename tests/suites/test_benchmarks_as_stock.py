"""Figures of a model in memory are those that lm_eval's own command gives of its checkpoint, to the bit."""

import json
import os
import subprocess
import sys

import pytest
from benchmark_cases import examiner, model
from scipy.stats import norm

from mari_cli.storage import json_cache
from mari_cli.suites.benchmarks import benchmarks

TASKS = ["arc_easy", "arc_challenge", "piqa", "hellaswag", "wikitext", "mmlu"]
LIMIT = 4
BATCH = 8
MAIN = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm", "wikitext": "word_perplexity"}
MMLU = ["mmlu", "mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other"]


@pytest.fixture(scope="module")
def lm():
    return model(seed=1)


def stock(checkpoint, root, out) -> subprocess.Popen:
    """`lm_eval` as its documentation says, from inside the folder of the data."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = {
        "--model": "hf",
        "--model_args": f"pretrained={checkpoint},dtype=float32",
        "--device": "cpu",
        "--tasks": ",".join(TASKS),
        "--limit": str(LIMIT),
        "--batch_size": str(BATCH),
        "--output_path": str(out),
    }
    command = [sys.executable, "-m", "lm_eval", *(word for option in options.items() for word in option)]
    silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=root, env=os.environ | offline, **silence)


@pytest.mark.slow
def test_figures_and_standard_errors_are_those_of_the_stock_command(lm, shared, tmp_path):
    root = shared / "data" / "lm_eval_root"
    if not root.is_dir():
        pytest.skip(f"needs the questions in {root}")
    lm.save(tmp_path / "checkpoint")
    asked = stock(tmp_path / "checkpoint", root, tmp_path / "stock")
    asking = examiner(
        lm,
        tmp_path / "cache",
        benchmarks=TASKS,
        benchmark_root=str(root),
        benchmark_limit=LIMIT,
        batch_size=BATCH,
    )
    figures, rows = benchmarks(asking)
    assert asked.wait() == 0
    (written,) = (tmp_path / "stock").rglob("results_*.json")
    theirs = json.loads(written.read_text())
    kept = [json_cache.read(path) for path in (tmp_path / "cache" / "benchmarks").rglob("*.json")]
    assert len(kept) == 5 + 57
    for task in kept:  # each of MMLU's subjects, too
        of_task = theirs["results"][task["name"]]
        assert task["items"] == LIMIT
        for key, judged in task["judged"].items():
            metric, _, way = key.partition(",")
            assert judged["value"] == of_task[key], (task["name"], key)
            assert (judged["stderr"] or "N/A") == (of_task[f"{metric}_stderr,{way}"] or "N/A")
    for name in (*TASKS, *MMLU[1:]):
        metric, of_name = MAIN.get(name, "acc"), theirs["results"][name]
        found = figures[f"benchmark/{name}"]
        assert found.value == of_name[f"{metric},none"], name
        if name in MMLU:
            half = float(norm.ppf(0.975)) * of_name["acc_stderr,none"]
            assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.25)  # Wilson's beside the normal
    assert figures["benchmark/mmlu"].n == 57 * LIMIT
    assert len(rows) == (5 + 57) * LIMIT
    assert 0 < theirs["results"]["mmlu"]["acc,none"] < 1
