"""Copies between the CPU and a device that do not make the CPU wait.

A copy between CUDA and ordinary memory waits until the device has done all earlier work. A copy between CUDA
and pinned memory joins the queue of work, and the CPU continues.
"""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor`` on ``device``, in ``dtype`` if one is given."""
    tensor = tensor.to(dtype or tensor.dtype)
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Fetched:
    """A copy of ``tensor`` to the CPU, which the device makes at this point in its queue of work."""

    def __init__(self, tensor: Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._values = tensor
            return
        self._values = tensor.to("cpu", non_blocking=True)  # torch takes pinned memory for the copy
        self._there = torch.cuda.Event()
        self._there.record()

    def read(self) -> list[float]:
        """Wait for the copy and return its values."""
        if self._there is not None:
            self._there.synchronize()
        values: list[float] = self._values.tolist()
        return values
