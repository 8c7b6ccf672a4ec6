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
    RunConfig,
    UnlearnRun,
)
from mari_cli.data.corpora import load_corpora
from mari_cli.data.files import looks_like_path
from mari_cli.errors import UserError
from mari_cli.models.locate import require_model
from mari_cli.options import RunOptions
from mari_cli.places import is_there, place
from mari_cli.storage.run import refuse_existing
from mari_cli.storage.signature import check_key

NOT_PATHS = {
    "unlearn": ("finetune", "none", "auto", "each"),
    "evaluate": ("none",),
    "audit": ("none", "auto"),
}
"""By task, values of `gold`, and of `before` where a task has it, that are not a path."""
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
    cannot sign, and a path of a further model where there is none."""
    first = os.environ.get("RANK", "0") == "0"  # which may have made the directory when other ranks come here
    if first and not options.resume:
        refuse_existing(Path(config.out))
    _check_places(config)
    if config.request.key:
        check_key(config.request.key)
    if isinstance(config, UnlearnRun | EvaluateRun | AuditRun):
        _check_beside("gold", "gold model", config.gold, NOT_PATHS[config.task])
    if isinstance(config, EvaluateRun | AuditRun):
        _check_beside("before", "model before", config.before, NOT_PATHS[config.task])
    if (path := config.metrics.mia_reference) is not None and not is_there(path):
        raise UserError(f"no model at `metrics.mia_reference={path}`", "give a model or run directory")
    if isinstance(config, UnlearnRun) and config.loss.support_request is not None:
        support = config.loss.support_request.support
        for name in ("model", "retain_model", "both_model"):
            path = getattr(support, name)
            if path is not None and path.startswith(("/", ".", "~")) and not is_there(path):
                raise UserError(f"no model at `loss.support.{name}={path}`", "give a model or run directory")


def _check_beside(key: str, what: str, path: str, words: tuple[str, ...]) -> None:
    if path not in words and not is_there(path):
        listed = ", ".join(f"`{word}`" for word in words)
        raise UserError(f"no {what} at `{path}`", f"`{key}` is a model or run directory, or one of {listed}")


def _check_places(config: RunConfig) -> None:
    """Refuse an `out` or a `cache` that cannot be made. Neither is made yet."""
    for key, path in (("out", Path(config.out)), ("cache", place(config.cache))):
        try:
            there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
        except OSError as error:
            raise UserError(
                f"cannot make `{key}={path}`: {(error.strerror or str(error)).lower()}",
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
