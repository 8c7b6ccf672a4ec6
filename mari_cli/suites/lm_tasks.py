"""Tasks of lm_eval by name, with their questions, read and checked before a model is asked.

A task reads its data from the hub, or from a folder whose subfolders are named as the hub's data sets
(`metrics.benchmark_root`).
"""

import copy
import importlib.metadata
import io
import json
import logging
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import datasets
import httpx
import jinja2
import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.api.metrics import perplexity, weighted_perplexity
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.utils import handle_non_serializable

from mari_cli import hub
from mari_cli.errors import UserError
from mari_cli.places import benchmark_folder
from mari_cli.storage import hashing
from mari_cli.suites import mmlu_sample
from mari_cli.suites.lm_metrics import LOWER_IS_BETTER, MMLU_SAMPLE
from mari_cli.suites.lm_names import unknown

VERSION = importlib.metadata.version("lm_eval")
UNREADABLE = (OSError, ValueError, LookupError, httpx.HTTPError, jinja2.TemplateError)
"""Errors that lm_eval and datasets raise at data that is missing or not as a task expects."""


@dataclass(frozen=True)
class Questions:
    """One task of lm_eval, ready to be asked."""

    task: Task
    limit: int | None
    count: int
    sha256: str
    """Hash of the questions that are asked, and of those from which examples are drawn."""
    config_hash: str

    @property
    def name(self) -> str:
        return str(self.task.config.task)

    @property
    def fewshot(self) -> int:
        return int(self.task.get_config("num_fewshot"))


@dataclass(frozen=True)
class Benchmark:
    """The tasks and groups that one name stands for."""

    name: str
    parts: tuple[str, ...]
    """The tasks that are asked."""
    groups: Mapping[str, Group]
    reported: tuple[str, ...]
    """Tasks and groups with metrics of their own: this one and its direct members."""


@dataclass(frozen=True)
class Benchmarks:
    wanted: tuple[Benchmark, ...]
    questions: Mapping[str, Questions]
    """The questions of every task that is asked, by its name."""


@lru_cache(maxsize=1)
def read(names: tuple[str, ...], *, root: str | None, limit: int | None, fewshot: int | None) -> Benchmarks:
    """The tasks that ``names`` stand for, each once; ``fewshot`` None: each task's own number of examples.

    ``limit``: the number of first questions taken of each task, in MMLU of each subject. Raises UserError.
    """
    folder = None if root is None else benchmark_folder(root)
    wanted: list[Benchmark] = []
    questions: dict[str, Questions] = {}
    for name in names:
        with lm_evals_own():
            tasks, benchmark = _find_tasks(name, folder, limit)
            for task in tasks:
                _settle(task, fewshot, root=root)
                found = _questions(task, None if name == MMLU_SAMPLE else limit)
                before = questions.setdefault(found.name, found)
                if before.config_hash != found.config_hash:
                    raise UserError(
                        f"`{name}` asks `{found.name}` in another way than a benchmark before it",
                        "measure them in two runs",
                    )
        wanted.append(benchmark)
    return Benchmarks(tuple(wanted), questions)


# -- by name -------------------------------------------------------------------------------------------------


@cache
def _index() -> TaskManager:
    """Every task that lm_eval knows: thousands of files, read once."""
    return TaskManager()


class _FromFolder(TaskFactory):  # type: ignore[misc]
    """Builds tasks as lm_eval does, but reads their data from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.caches: dict[Path, str] = {}

    def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        if name := config.get("dataset_path"):
            path = self.folder / name
            if not path.is_dir():
                raise UserError(
                    f"no data for `{entry.name}`: there is no folder `{name}` in `{self.folder}`",
                    f"`hf download --repo-type dataset {name} --local-dir {path}` fetches it",
                )
            if path not in self.caches:
                self.caches[path] = _cache_of(path)
            settings = (config.get("dataset_kwargs") or {}) | {"cache_dir": self.caches[path]}
            config |= {"dataset_path": str(path), "dataset_kwargs": settings}
        return config


def _cache_of(folder: Path) -> str:
    """The place where datasets caches ``folder``. The default cache identifies a folder by its name and
    layout alone, and would return the data of another folder, or of this one before a change."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    states = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"mari-{hashing.content_hash(states)[:24]}")


def _find_tasks(name: str, folder: Path | None, limit: int | None) -> tuple[list[Task], Benchmark]:
    if name == MMLU_SAMPLE:
        return [mmlu_sample.sample_task(limit)], Benchmark(name, (name,), {}, (name,))
    index = _index()
    if name not in index.task_index:
        raise unknown(name)
    loaded = _load_task(index, name, folder)
    tasks, groups = list(loaded["tasks"].values()), loaded["groups"]
    parts = tuple(loaded["tasks"])
    reported = _reported(name, groups) if name in groups else list(parts)  # one task, or all with a tag
    for task in tasks:
        _refuse_what_cannot_be_asked(task)
    return tasks, Benchmark(name, parts, groups, tuple(reported))


def _reported(name: str, groups: Mapping[str, Group]) -> list[str]:
    """A task: ``name``. A group with an aggregation: the group and its members. Other groups: the members."""
    if name not in groups:
        return [name]
    members = groups[name].child_names
    if not groups[name].has_aggregation:
        return [found for member in members for found in _reported(member, groups)]
    return [name, *(member for member in members if member not in groups or groups[member].has_aggregation)]


def _load_task(index: TaskManager, name: str, folder: Path | None) -> dict[str, Any]:
    factory = index._factory
    if folder is None:
        hub.settle()
    try:
        if folder is not None:
            index._factory = _FromFolder(folder)
        loaded: dict[str, Any] = index.load([name])
    except ModuleNotFoundError as error:
        raise UserError(
            f"`{name}` needs the Python package `{error.name}`", f"install it, or leave `{name}` out"
        ) from error
    except UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"cannot read the questions of `{name}`: {reason}",
            "they come from the hub, or without a network from `metrics.benchmark_root=DIR` with a folder "
            "for each data set, named as on the hub; `metrics.benchmarks=[mmlu_sample]` needs neither",
        ) from error
    finally:
        index._factory = factory
    return loaded


def _refuse_what_cannot_be_asked(task: Task) -> None:
    name = task.task_name
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"`{name}` runs code that the model writes", "ask it with lm_eval, in a sandbox")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"`{name}` asks about more than text", "measure language alone")
    if not order_metrics(task):
        raise UserError(f"`{name}` has no figure of which more is better, or less", "leave it out")


def order_metrics(task: Task) -> list[str]:
    """The metrics of ``task`` for which lm_eval or the registry says whether higher is better."""
    return [metric for metric, up in task.higher_is_better().items() if up or metric in LOWER_IS_BETTER]


# -- as lm_eval asks them ------------------------------------------------------------------------------------


def _settle(task: Task, fewshot: int | None, *, root: str | None) -> None:
    """Set the number of examples before a question by lm_eval's rules: 0 in a task's file is final."""
    own = task.get_config("num_fewshot")
    number = own if fewshot is None or own == 0 else fewshot
    if task.OUTPUT_TYPE == "loglikelihood_rolling":  # running text
        number = 0
    task.set_config("num_fewshot", number or 0)
    if number:
        _refuse_borrowed_examples(task, root)
    for metric, aggregate in task.aggregation().items():
        if aggregate in (perplexity, weighted_perplexity):
            task.aggregation()[metric] = _or_infinite(aggregate)


def _or_infinite(aggregate: Callable[[Sequence[Any]], float]) -> Callable[[Sequence[Any]], float]:
    """``aggregate``, but infinite where exp overflows (a collapsed model); lm_eval's perplexities raise."""

    def guarded(values: Sequence[Any]) -> float:
        try:
            return aggregate(values)
        except OverflowError:
            return math.inf

    return guarded


def _refuse_borrowed_examples(task: Task, root: str | None) -> None:
    """Refuse examples from a split that equals another split, for instance the questions."""
    config, data = task.config, getattr(task, "dataset", {})
    split = config.fewshot_config.split or config.training_split or config.validation_split
    if config.fewshot_config.samples is not None or split not in data:
        return
    twins = [name for name in data if name != split and data[name].data.table.equals(data[split].data.table)]
    if twins:
        where = f" in `{root}`" if root else ""
        raise UserError(
            f"the examples of `{task.task_name}` come from `{split}`, which is `{twins[0]}` under another "
            f"name{where}",
            "use `metrics.fewshot=0`, or data with a split of its own to draw examples from",
        )


def _questions(task: Task, limit: int | None) -> Questions:
    asked = task.eval_docs
    count = len(asked) if limit is None else min(limit, len(asked))
    drawn_from = task.fewshot_docs() if task.get_config("num_fewshot") else None
    documents = [asked[i] for i in range(count)], list(drawn_from or [])
    sha256 = hashing.content_hash(json.loads(json.dumps(documents, default=handle_non_serializable)))
    return Questions(task, limit, count, sha256, hashing.content_hash([task.VERSION, settings_of(task)]))


def settings_of(task: Task) -> str:
    """How a task asks and scores, as text that is equal in every process, without where its questions lie."""
    settings = task.dump_config()
    for elsewhere in ("dataset_path", "dataset_kwargs", "metadata"):
        settings.pop(elsewhere, None)
    return json.dumps(settings, default=_named_function, sort_keys=True)


def _named_function(value: object) -> str:
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, FunctionType) else str(value)


def fresh(task: Task) -> Task:
    """A copy of ``task`` as before it was asked: without requests, its examples still to be drawn."""
    again = copy.copy(task)
    again.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return again


# -- lm_eval's surroundings ----------------------------------------------------------------------------------


@contextmanager
def lm_evals_own() -> Iterator[None]:
    """A block for lm_eval's code: silent, with the seeds of lm_eval's command."""
    with _silence(), _seeds():
        yield


@contextmanager
def _seeds() -> Iterator[None]:
    """Seeds for tasks that shuffle or sample; even a query of a task's name may draw a random name. The
    generators' states are restored."""
    python, numpy = random.getstate(), np.random.get_state()
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(cuda):
        try:
            random.seed(DEFAULT_RANDOM_SEED)
            np.random.seed(DEFAULT_OTHER_SEED)
            torch.default_generator.manual_seed(DEFAULT_OTHER_SEED)
            for device in cuda:
                torch.cuda.default_generators[device].manual_seed(DEFAULT_OTHER_SEED)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _silence() -> Iterator[None]:
    """Silences warnings, prints and bars of lm_eval and datasets; the caller shows its own bar."""
    names = ("lm_eval", "datasets", "transformers.tokenization_utils_base")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    sys.stdout.flush()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
