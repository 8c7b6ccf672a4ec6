"""A task in several processes: started here by torch's launcher, or found started by `torchrun`.

One of them, or the command line that starts them, composes the config; all others are told it. The run
directory and the cache must be the same for all, on one machine or on a file system that all see.
"""

import json
import logging
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mari_cli import distributed
from mari_cli.config import Device, FinetuneRun, RunConfig, UnlearnRun
from mari_cli.errors import UserError, shell_path
from mari_cli.options import PreparedRun, RunOptions
from mari_cli.tasks.shares import batches, require_whole_shares
from mari_cli.tasks.worker import work


def run_in_processes(name: str, config: RunConfig, options: RunOptions) -> Any:
    """The task called ``name``, in processes of its own on this machine; returns what the first of them
    returned. Where one fails or is killed all are ended, and its reason is raised here."""
    processes = options.processes
    require_whole_shares(batches(config), processes)
    require_gpus(config, processes)
    for logger in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # told below, in our words
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=secrets.token_hex(8),
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=5,
    )
    try:
        results = elastic_launch(launch, work)(name, config, options)
    except ChildFailedError as error:
        raise reason_of(error, processes, config) from None
    except SignalException as signalled:  # the workers were told, and have ended
        raise KeyboardInterrupt from signalled
    return results[0]


def reason_of(error: ChildFailedError, processes: int, cfg: RunConfig) -> Exception:
    """Of all that failed what failed first: the others only lost it."""
    failures = list(error.failures.values())
    killed = [f for f in failures if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
    if killed:
        name = signal.Signals(-killed[0].exitcode).name
        hint = "out of memory, if nobody meant it"
        if isinstance(cfg, UnlearnRun | FinetuneRun):
            task = "unlearn" if isinstance(cfg, UnlearnRun) else "finetune"
            hint += f"; `mari {task} --resume {shell_path(cfg.out)} --nproc {processes}` goes on"
        return UserError(
            f"process {killed[0].local_rank} of {processes} was killed ({name}); the others were ended", hint
        )
    told = sorted(failures, key=lambda failure: ("Refused: " not in _said(failure), failure.timestamp))
    said = _said(told[0])
    if "Refused: " in said:
        message, hint = json.loads(said.partition("Refused: ")[2])
        return UserError(message, hint)
    raised = told[0].message
    where = raised["extraInfo"]["py_callstack"] if isinstance(raised, dict) else raised
    return RuntimeError(f"process {told[0].local_rank} of {processes} failed\n{where}")


def _said(failure: ProcessFailure) -> str:
    """The error as a worker raised it; empty where it left no word."""
    told = failure.error_file_data.get("message") if failure.error_file_data else None
    return str(told["message"]) if isinstance(told, dict) else ""


def require_gpus(cfg: RunConfig, processes: int) -> None:
    """One for each process on this machine, where there are any."""
    device = cfg.train.device if isinstance(cfg, UnlearnRun | FinetuneRun) else Device.auto
    there = torch.cuda.device_count()
    if there and device is not Device.cpu and processes > there:
        raise UserError(
            f"`--nproc {processes}`, but this machine has {there} GPUs",
            f"use `--nproc {there}`, or `train.device=cpu`",
        )


# -- under torchrun ------------------------------------------------------------------------------------------


@contextmanager
def take_part(prepare: Callable[[], PreparedRun]) -> Iterator[PreparedRun]:
    """What ``prepare`` returns in the first process, in all of them. Where it fails the others exit with 2,
    and the first says why."""
    with distributed.join_processes():
        prepared = None
        try:
            if distributed.is_rank_zero():
                found = prepare()
                require_whole_shares(batches(found.config), distributed.size())
                prepared = found
        finally:
            prepared = distributed.broadcast(prepared)
        if prepared is None:
            raise SystemExit(2)
        yield prepared
