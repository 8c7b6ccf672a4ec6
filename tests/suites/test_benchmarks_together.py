"""Two processes share the tasks of the benchmarks, and both have the figures of one."""

import sys
from pathlib import Path

import pytest
from benchmark_cases import examiner, model, write_folder

from mari_cli import distributed
from mari_cli.suites.benchmarks import benchmarks
from mari_cli.suites.lm_model import InMemory

sys.path.append(str(Path(__file__).parents[1] / "train"))
from together import together


def ask(root: str, cache: str | None):
    """Figures and rows, and how many tasks this process has put to the model."""
    ask_one, tasks = InMemory.loglikelihood, []

    def counted(self, requests, **options):
        tasks.append(requests[0].task_name)
        return ask_one(self, requests, **options)

    InMemory.loglikelihood = counted
    try:
        lm = model()
        asking = examiner(lm, cache and Path(cache), benchmarks=["wmdp", "piqa"], benchmark_root=root)
        found = benchmarks(asking)
    finally:
        InMemory.loglikelihood = ask_one
    return found, sorted(tasks), distributed.rank()


@pytest.mark.slow
def test_two_processes_share_the_tasks_and_have_the_figures_of_one(tmp_path):
    root, cache = str(write_folder(tmp_path / "root")), str(tmp_path / "cache")
    alone, tasks, _ = ask(root, None)
    (first, of_first, _), (second, of_second, rank) = together(2, ask, root, cache)
    assert rank == 1
    assert first == second == alone
    assert (len(of_first), len(of_second)) == (2, 2)
    assert sorted(of_first + of_second) == tasks
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 4
