"""Between the CPU and the device, without one of them waiting for the other.

A copy between CUDA and ordinary memory waits until the device has done all that was asked of it before; one
between CUDA and pinned memory is just one more thing that was asked of it.
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
    """The values of ``tensor`` as they are at this point of the device's work, on their way to the CPU."""

    def __init__(self, tensor: Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._values = tensor
            return
        self._values = tensor.to("cpu", non_blocking=True)  # which torch pins by itself
        self._there = torch.cuda.Event()
        self._there.record()

    def read(self) -> list[float]:
        """Waits until they have come."""
        if self._there is not None:
            self._there.synchronize()
        values: list[float] = self._values.tolist()
        return values
