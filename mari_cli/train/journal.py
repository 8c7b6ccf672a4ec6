"""The log of steps: the numbers of each step, which the device makes, and the time and memory of the step.

A device works on a step long after the CPU has asked for it. If the CPU waited for the numbers of a step, the
device would wait for the next step; so the numbers are read when the next step is under way. By then the
update is made or skipped: numbers that are not finite stop it on the device (`Optimizer.step`).
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mari_cli import distributed
from mari_cli.config import OptimConfig
from mari_cli.losses.objective import Objective
from mari_cli.measure import devices
from mari_cli.models.load import LanguageModel
from mari_cli.train.forecast import Settings, Unforeseeable, forecast
from mari_cli.train.step import Group
from mari_cli.train.workload import count_positions
from mari_cli.transfer import Fetched

RecordWriter = Callable[[dict[str, Any]], None]
"""Takes one record of metrics.jsonl: `step`, `kind` and numbers."""


@dataclass(frozen=True)
class Launched:
    """An optimiser step that the CPU has sent to the device."""

    step: int
    """Counted from 1."""
    names: tuple[str, ...]
    values: Fetched
    """The terms of the loss and `grad_norm`, in the order of ``names``."""
    lr: float
    tokens: int
    started: float
    """The time when the CPU began the step, by `time.perf_counter`."""
    peak_bytes: int | None


SKIPPED_IN_A_ROW = 10
"""Skipped steps in a row after which a float16 training ends; each has halved the scale of the loss."""


class Journal:
    """Logs each step, and says to stop at a step whose numbers are not finite and whose update is skipped."""

    def __init__(
        self, log: RecordWriter, *, behind: int, token_seconds: float | None, loss_scaling: bool
    ) -> None:
        """``behind``: how many steps are not yet read when one is added. ``token_seconds`` as of the function
        of that name. With ``loss_scaling`` a gradient may be infinite now and then: its step was skipped, and
        the next ones are scaled less."""
        self._log, self._behind, self._token_seconds = log, behind, token_seconds
        self._loss_scaling = loss_scaling
        self.failure: str | None = None
        """The reason to stop, or None."""
        self.read = 0
        """The last step whose numbers were read and are finite, or which was skipped."""
        self.skipped = 0
        """The number of steps, of those read, that were skipped."""
        self._in_a_row = 0
        self._unread: deque[Launched] = deque()
        self._last_end = -math.inf

    def add(self, launched: Launched) -> None:
        self._unread.append(launched)
        self.settle(self._behind)

    def settle(self, left: int = 0) -> None:
        """Read all steps but the ``left`` last: at the end of a training all."""
        while len(self._unread) > left and not self.failure:
            self._read(self._unread.popleft())

    def _read(self, done: Launched) -> None:
        values = dict(zip(done.names, done.values.read(), strict=True))
        now = time.perf_counter()
        # the device begins a step when the CPU sends it, or when the step before has ended
        seconds = now - max(done.started, self._last_end)
        self._last_end = now
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        skipped = bad == ["grad_norm"] and self._loss_scaling
        if bad and not skipped:
            names = ", ".join("gradient" if name == "grad_norm" else name for name in bad)
            self.failure = f"step {done.step}: {names} not finite; the update was not made"
            return
        self.read = done.step
        self.skipped += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row == SKIPPED_IN_A_ROW:
            self.failure = (
                f"steps {done.step - SKIPPED_IN_A_ROW + 1} to {done.step}: the gradient is not finite in "
                "float16, though the scale of the loss was halved each time; the updates were not made"
            )
        took: dict[str, float] = {"seconds": seconds, "tokens_per_second": done.tokens / seconds}
        if self._token_seconds is not None:
            took["mfu"] = done.tokens * self._token_seconds / seconds
        if done.peak_bytes is not None:
            took["peak_bytes"] = done.peak_bytes
        self._log(
            {"step": done.step, "kind": "train", **values, "lr": done.lr, "tokens": done.tokens, **took}
        )


def token_seconds(
    lm: LanguageModel, groups: Group, objective: Objective, config: OptimConfig
) -> float | None:
    """Seconds per token of a step like ``groups`` if all devices worked at their peak on the operations that
    the step needs, without padding and without what is computed twice to save memory.

    Divided by the measured seconds per token this is the model FLOPs utilisation (A. Chowdhery et al. 2022,
    "PaLM", https://arxiv.org/abs/2204.02311, appendix B). None where the peak is not known; it is known for
    some GPUs, in 16 bits.
    """
    if lm.device.type != "cuda" or lm.compute.dtype == torch.float32:
        return None
    peak = devices.this_gpu().flops * distributed.size()
    if not peak:
        return None
    once = Settings(micro_batch=None, keep_logits=True, gradient_checkpointing=False)
    try:
        needed = forecast(lm, groups, objective, once, config, optimizer=False)
    except Unforeseeable:
        return None
    return needed.flops / count_positions(groups, lm.layout.packed) / peak
