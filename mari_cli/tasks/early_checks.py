"""Refusals that need neither torch nor a model. They come first: a user sees a typo within a second."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mari_cli.config import (
    AuditRun,
    CorpusConfig,
    EvaluateRun,
    FileCorpus,
    ForgetFiles,
    PublishedSuite,
    RunConfig,
    UnlearnRun,
)
from mari_cli.data.corpora import load_corpora
from mari_cli.data.files import looks_like_path, refuse_missing
from mari_cli.errors import UserError, reason_of
from mari_cli.models.locate import find_model, refuse_other_formats, require_model, require_named
from mari_cli.options import RunOptions
from mari_cli.places import benchmark_folder, is_there, place
from mari_cli.storage.layout import CACHED
from mari_cli.storage.run import refuse_existing
from mari_cli.storage.signature import check_key
from mari_cli.suites.lm_names import refuse_unknown
from mari_cli.tasks.support_checks import MODELS, check_support
from mari_cli.tracking import check_tracker

BESIDE = {"gold": "gold model", "before": "model before", "second_gold": "second gold model"}
"""Keys of a run that name a model beside its own, and the role of that model."""
NOT_PATHS: dict[str, dict[str, tuple[str, ...]]] = {
    "gold": {
        "unlearn": ("finetune", "none", "auto", "each"),
        "evaluate": ("none",),
        "audit": ("none", "auto"),
    },
    "before": {"evaluate": ("none",), "audit": ("none", "auto")},
    "second_gold": {"unlearn": ("none",), "audit": ("none",)},
}
"""By key of `BESIDE` and task, the values that are not a path."""
MOST_READ = 2**24
"""Bytes of a corpus that is read here and once more by the task; a larger one is read by the task alone."""


def check_early(configs: Iterable[RunConfig], options: RunOptions) -> None:
    """Raise UserError where a new or resumed run, or a job of a sweep, names something that cannot be used.

    Nothing is written. What several jobs have in common, a model or the corpora, is looked at once.
    """
    models: set[str] = set()
    read: list[list[CorpusConfig]] = []
    for config in configs:
        if isinstance(config, EvaluateRun) and config.from_log is not None:
            continue  # the task reads logs, without torch
        check_names(config, options)
        if config.model.path is not None and config.model.path not in models:
            require_model(config.model.path)  # a name is asked for at the hub
            models.add(config.model.path)
        corpora = [config.forget, config.retain, config.holdout]
        if corpora not in read and all(map(_can_be_read_twice, corpora)):
            load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
            read.append(corpora)


def check_names(config: RunConfig, options: RunOptions) -> None:
    """Raise UserError for an `out` that exists, an `out` or a `cache` that cannot be made, a signing key that
    cannot sign, a tracker that cannot start, a support that cannot be made, and a path of data or of a
    further model where there is none."""
    first = os.environ.get("RANK", "0") == "0"  # which may have made the directory when other ranks come here
    if first and not options.resume:
        refuse_existing(Path(config.out))
    _check_places(config)
    if config.request.key:
        check_key(config.request.key)
    require_named(config.model)
    check_tracker(config.tracker)
    if not isinstance(config, AuditRun):
        refuse_unknown(config.metrics.benchmarks)
    if config.metrics.benchmarks and config.metrics.benchmark_root is not None:
        benchmark_folder(config.metrics.benchmark_root)
    if isinstance(config, UnlearnRun | EvaluateRun) and isinstance(config.suite, PublishedSuite):
        refuse_missing(config.suite.path)
    if isinstance(config, UnlearnRun):
        check_support(config)
        if (asked := config.loss.alternates_request) is not None and asked.path is not None:
            refuse_missing(asked.path)
    check_beside(config)


def check_beside(config: RunConfig) -> None:
    """Raise UserError where there is no model at the path of a model beside the run's own."""
    for key, what, path in _models_beside(config):
        if is_there(path):
            refuse_other_formats(path, Path(find_model(path)))
        elif not key.startswith("loss.") or path.startswith(("/", ".", "~")):  # else a name on the hub
            words = NOT_PATHS[key][config.task] if key in BESIDE else ()
            listed = "".join(f", or `{word}`" for word in words)
            raise UserError(f"no {what} at `{path}`", f"`{key}` is a model or run directory{listed}")


def path_beside(key: str, config: RunConfig) -> str | None:
    """The path of the model that ``key`` of `BESIDE` names; None where it names none."""
    path: str | None = getattr(config, key, None)
    return None if path is None or path in NOT_PATHS[key][config.task] else path


def _models_beside(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """The key, the role and the path of each model beside the run's own."""
    for key, what in BESIDE.items():
        if path := path_beside(key, config):
            yield key, what, path
    if (path := config.metrics.mia_reference) is not None:
        yield "metrics.mia_reference", "reference of membership inference", path
    request = config.loss.support_request if isinstance(config, UnlearnRun) else None
    for name in MODELS:
        if request is not None and (path := getattr(request.support, name)) is not None:
            yield f"loss.support.{name}", "model", path


def _check_places(config: RunConfig) -> None:
    """Refuse an `out` or a `cache` that cannot be made or filled. Neither is made yet."""
    cache = place(config.cache)
    for key, path in [("out", Path(config.out)), *(("cache", cache / name) for name in ("", *CACHED))]:
        try:
            there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
        except OSError as error:
            raise UserError(
                f"cannot make `{key}={path}`: {reason_of(error)}",
                f"choose another `{key}=`",
            ) from error
        # /proc and other file systems that keep no files report no free space, and refuse only at mkdir
        kept = os.statvfs(there).f_blocks > 0
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK) and kept):
            raise UserError(
                f"cannot make `{key}={path}`: `{there}` is no directory to write in",
                f"choose another `{key}=`",
            )


def _can_be_read_twice(corpus: CorpusConfig) -> bool:
    """Whether a corpus is on this machine and small, or known to be missing."""
    if not isinstance(corpus, FileCorpus):
        return True
    requests = corpus.requests if isinstance(corpus, ForgetFiles) else None
    named = [corpus.path, requests] if isinstance(requests, str) else [corpus.path, *_flat(requests)]
    sizes = [_size(path) for path in named if path is not None]
    return None not in sizes and sum(size or 0 for size in sizes) <= MOST_READ


def _flat(requests: Any) -> Iterator[str]:
    """The paths in the list `forget.requests`, in which a list is one request of several files."""
    for request in requests if isinstance(requests, list) else []:
        yield from _flat(request) if isinstance(request, list) else (str(request),)


def _size(path: str) -> int | None:
    """Bytes at ``path``; 0 where nothing is, None for a data set of the hub."""
    local = place(path)
    if not is_there(path):
        return 0 if looks_like_path(path) else None
    files = local.rglob("*") if local.is_dir() else [local]
    return sum(file.stat().st_size for file in files if file.is_file())
