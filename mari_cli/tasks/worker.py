"""What each of several processes begins with. Nothing heavy at module level: silence before the noise."""

import json
import logging
from typing import Any

from mari_cli.errors import UserError

TALKATIVE = ("torchao", "torch.utils._pytree")
"""Loggers of libraries that tell, on being imported, which kernels they lack: whoever has the extra `8bit`
would read it above every result."""


def hush() -> None:
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


class Refused(Exception):
    """A worker's UserError, in words that its launcher passes on."""


def work(task: Any, cfg: Any, command: list[str], resume: bool) -> Any:
    """``task`` as one of several processes; what it returns must be small."""
    hush()
    from mari_cli import distributed

    try:
        with distributed.joined():
            return task(cfg, command=command, resume=resume)
    except UserError as error:
        raise Refused(json.dumps([str(error), error.hint])) from error
