"""What each of several processes begins with. Nothing heavy at module level: silence before the noise."""

import json
import logging
import os
import re
import time
from importlib import import_module
from typing import Any

from mari_cli.errors import UserError
from mari_cli.options import RunOptions, Task

TALKATIVE = ("torchao", "torch.utils._pytree", "bitsandbytes")
"""Loggers of libraries that tell, on being imported, which kernels they lack: whoever has the extra `8bit` or
`nf4` would read it above every result."""


def hush() -> None:
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


def processes() -> int:
    """How many processes the environment tells of; 1 where it tells of none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_processes() -> None:
    """Refuse an environment that tells of several processes, and does not tell all that they need."""
    told = {name: os.environ.get(name) for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    hint = "unset WORLD_SIZE and RANK, or let `torchrun` set them"
    count = told["WORLD_SIZE"]
    if count is not None and not re.fullmatch(r"[1-9][0-9]{0,6}", count, re.ASCII):
        raise UserError(f"WORLD_SIZE is `{count}`, and is the number of processes", hint)
    if count in (None, "1"):
        os.environ.pop("RANK", None)  # of whatever this is one, it works alone, and speaks
        return
    if missing := [name for name, value in told.items() if not value]:
        raise UserError(f"WORLD_SIZE is {count}, but {' and '.join(missing)} is not set", hint)
    numbers = {"RANK": int(count) - 1, "LOCAL_RANK": int(count) - 1, "MASTER_PORT": 65535}
    for name, most in numbers.items():
        value = os.environ.get(name, "0")
        if not (re.fullmatch(r"[0-9]{1,7}", value, re.ASCII) and int(value) <= most):
            raise UserError(f"{name} is `{value}`, and is a number from 0 to {most}", hint)
    within = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,6}", within, re.ASCII):
        raise UserError(f"LOCAL_WORLD_SIZE is `{within}`, and is the number of processes here", hint)


AFTER_THE_FIRST = 3.0
"""Seconds before a worker ends with an error. It may only have lost another that was killed, and of several
that have ended the launcher tells of the one with the lowest rank: it looks ten times a second."""


class Refused(Exception):
    """A worker's UserError, in words that its launcher passes on."""


def load_task(name: str) -> Task:
    """The task called ``name``, whose module loads torch."""
    task: Task = getattr(import_module(f"mari_cli.tasks.{name}"), name)
    return task


def work(name: str, config: Any, options: RunOptions) -> Any:
    """The task called ``name`` as one of several processes; what it returns must be small."""
    hush()
    from mari_cli import distributed

    try:
        with distributed.join_processes():
            try:
                return load_task(name)(config, options)
            except UserError:
                raise
            except Exception:
                time.sleep(AFTER_THE_FIRST)
                raise
    except UserError as error:
        raise Refused(json.dumps([str(error), error.hint])) from error
