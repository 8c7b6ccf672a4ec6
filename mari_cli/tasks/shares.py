"""How processes share the batches of a run. That follows from the config alone, so what starts the processes
need not load torch's libraries of models."""

import math
from collections.abc import Mapping

from mari_cli.config import FinetuneRun, RunConfig, UnlearnRun
from mari_cli.errors import UserError, counted


def batches(config: RunConfig) -> dict[str, int]:
    """The sequences of a step that processes share, by the key that sets their number."""
    match config:
        case UnlearnRun():
            found = {
                "train.forget_batch": config.train.forget_batch,
                "train.retain_batch": config.train.retain_batch,
            }
            if config.finetunes_target or config.gold == "finetune":
                found["finetune.batch_size"] = config.finetune.batch_size
            return found
        case FinetuneRun():
            return {"train.batch_size": config.train.batch_size}
        case _:
            return {}


def require_whole_shares(batches: Mapping[str, int], processes: int) -> None:
    """Refuse batches, named by their keys, that several processes cannot share evenly."""
    uneven = {key: batch for key, batch in batches.items() if batch % processes}
    if not uneven:
        return
    common = math.gcd(*batches.values())
    fitting = [count for count in range(1, common + 1) if common % count == 0]
    count = min(fitting, key=lambda count: abs(count - processes))
    nearest = []
    for key, batch in uneven.items():
        below = batch - batch % processes
        nearest.append(" or ".join(f"`{key}={size}`" for size in (below, below + processes) if size))
    raise UserError(
        " and ".join(f"`{key}={batch}`" for key, batch in uneven.items())
        + f" on {processes} processes: each takes an equal share of a step",
        f"use {', '.join(nearest)}, or {counted(count, 'process', 'processes')}",
    )
