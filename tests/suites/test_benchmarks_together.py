"""Two processes share the tasks of the benchmarks, or the weights, and both have the figures of one."""

import multiprocessing
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_cases import examiner, model, write_folder
from forked import SERVER

from mari_cli import distributed
from mari_cli.suites.benchmarks import benchmarks
from mari_cli.suites.lm_model import InMemory
from mari_cli.train.sharding import sharded

sys.path.append(str(Path(__file__).parents[1] / "train"))
from together import together


def ask(root: str, cache: str | None):
    """Figures and rows, and how many tasks this process has put to the model; and the same with its weights
    in shards."""
    ask_one, tasks = InMemory.loglikelihood, []

    def counted(self, requests, **options):
        tasks.append(requests[0].task_name)
        return ask_one(self, requests, **options)

    InMemory.loglikelihood = counted
    try:
        lm = model()
        asking = examiner(lm, cache and Path(cache), benchmarks=["wmdp", "piqa"], benchmark_root=root)
        shared, of_shared = benchmarks(asking), sorted(tasks)
        tasks.clear()
        with sharded(lm) if distributed.size() > 1 else nullcontext(lm) as of_all:
            others = replace(asking.config, benchmarks=["piqa", "wikitext"])
            in_shards = benchmarks(replace(asking, lm=of_all, config=others, cache=None))
    finally:
        InMemory.loglikelihood = ask_one
    return distributed.rank(), shared, in_shards, of_shared, tasks


@pytest.mark.slow
def test_two_processes_share_the_tasks_or_the_weights_and_have_the_figures_of_one(tmp_path):
    root, cache = str(write_folder(tmp_path / "root")), str(tmp_path / "cache")
    _, alone, whole, tasks, _ = ask(root, None)
    # forked, both have lm_eval's index of its tasks already; a CUDA that is in use works in no forked process
    context = SERVER if torch.cuda.is_initialized() else multiprocessing.get_context("fork")
    first, second = together(2, ask, root, cache, context=context)
    for rank, (of_rank, shared, in_shards, of_shared, all_of_them) in enumerate((first, second)):
        assert of_rank == rank
        assert shared == alone
        assert in_shards == whole
        assert len(of_shared) == 2
        assert all_of_them == ["piqa"]  # running text is asked otherwise
    assert sorted(first[3] + second[3]) == tasks
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 4
