"""Figures of a model in memory are those that lm_eval's own command gives of its checkpoint, to the bit."""

import json
import os
import runpy
import sys

import pytest
from benchmark_cases import examiner, model
from lm_eval.tasks._index import TaskIndex
from scipy.stats import norm

from mari_cli.storage import json_cache
from mari_cli.suites import lm_tasks
from mari_cli.suites.benchmarks import benchmarks

TASKS = ["arc_easy", "arc_challenge", "piqa", "hellaswag", "wikitext", "mmlu"]
LIMIT = 4
BATCH = 8
MAIN = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm", "wikitext": "word_perplexity"}
MMLU = ["mmlu", "mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other"]


@pytest.fixture(scope="module")
def lm():
    return model(seed=1)


def stock(checkpoint, root, out) -> int:
    """`lm_eval` as its documentation says, from inside the folder of the data, in a process of its own.

    The process is forked, and takes over what lm_eval reads first: the index of its 14,000 files of tasks.
    """
    options = {
        "--model": "hf",
        "--model_args": f"pretrained={checkpoint},dtype=float32",
        "--device": "cpu",
        "--tasks": ",".join(TASKS),
        "--limit": str(LIMIT),
        "--batch_size": str(BATCH),
        "--output_path": str(out),
    }
    index = lm_tasks._index().task_index
    if (child := os.fork()) == 0:
        try:
            os.chdir(root)
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(nothing.fileno(), 2)
            TaskIndex.build = staticmethod(lambda paths, **_: index)
            sys.argv = ["lm_eval", *(word for option in options.items() for word in option)]
            runpy.run_module("lm_eval", run_name="__main__")
            os._exit(0)
        finally:
            os._exit(1)
    return child


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
    assert os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]) == 0
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
