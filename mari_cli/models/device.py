"""The device and the precision of a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mari_cli.config import Device, Precision, Weights
from mari_cli.errors import UserError


@dataclass(frozen=True)
class Compute:
    """``dtype`` is the type of the backbone's matrix products. The optimiser always updates float32 weights,
    because small updates would be rounded away in 16 bits (train/optim.py)."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    """The reason for this precision, for the log."""
    as_on_cuda: bool = False
    """Whether it stands for a CUDA device, whatever ``device`` is: what is planned runs on a CPU."""

    @contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            yield

    @property
    def widens(self) -> bool:
        """Whether a product of 16-bit operands can return float32 without a cast."""
        return self.as_on_cuda or self.device.type == "cuda"

    @property
    def needs_loss_scaling(self) -> bool:
        return self.dtype == torch.float16

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def choose_compute(
    device: Device, precision: Precision, weights: Weights = Weights.float32, *, section: str = "train."
) -> Compute:
    """Resolve ``auto``. Raises UserError for a device or a precision that this machine does not have.
    ``section`` is the section of the configuration that messages name."""
    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError("no CUDA device here", f"use `{section}device=auto` or `{section}device=cpu`")
    cuda = torch.cuda.is_available() and device is not Device.cpu
    reason = "asked for"
    if weights is Weights.bfloat16 and precision is Precision.auto:  # config/ refuses any other precision
        precision, reason = Precision.bfloat16, f"auto: `{section}weights=bfloat16`"
    if not cuda:
        if precision is Precision.float16:
            raise UserError(
                "float16 needs a CUDA device", f"use `{section}precision=bfloat16`, `float32` or `auto`"
            )
        if precision is Precision.auto:
            return Compute(torch.device("cpu"), torch.float32, "auto: CPU")
        return Compute(torch.device("cpu"), getattr(torch, precision), reason)
    name = torch.cuda.get_device_name()
    major, minor = torch.cuda.get_device_capability()
    has_bfloat16 = major >= 8  # earlier GPUs only emulate bfloat16
    if precision is Precision.bfloat16 and not has_bfloat16:
        raise UserError(
            f"{name} has no bfloat16 arithmetic",
            f"use `{section}weights=float32`"
            if weights is Weights.bfloat16
            else f"use `{section}precision=float16`, `float32` or `auto`",
        )
    if precision is Precision.auto:
        dtype = torch.bfloat16 if has_bfloat16 else torch.float16
        return Compute(torch.device("cuda"), dtype, f"auto: {name}, SM {major}{minor}")
    return Compute(torch.device("cuda"), getattr(torch, precision), reason)
