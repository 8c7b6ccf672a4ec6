"""Speed and memory of devices. The speed is from data sheets; the memory is the value that torch reports, a
little less than in the data sheet."""

import os
import time
from dataclasses import dataclass

import torch

GIB = 2**30
MFU = 0.45
"""The share of a GPU's peak that a training step reaches: an assumption, not a measurement."""
CPU_SHARE = 0.6
"""The share of the speed of one large matrix product that a training step reaches on a CPU, assumed, too."""


@dataclass(frozen=True)
class DeviceSpec:
    name: str
    flops: float
    """Peak operations per second in dense bfloat16 products with float32 sums; 0: not known."""
    memory: int
    """The memory in bytes."""
    share: float
    """The share of `flops` that a training step is assumed to reach."""
    source: str
    cuda: bool = True


def _gpu(name: str, teraflops: float, gib: float, source: str) -> DeviceSpec:
    return DeviceSpec(name, teraflops * 1e12, round(gib * GIB), MFU, source)


GPUS = {
    device.name.lower(): device
    for device in (
        _gpu("H200", 989.4, 139.7, "NVIDIA H200 SXM data sheet"),
        _gpu("H100", 989.4, 79.1, "NVIDIA H100 SXM data sheet"),
        _gpu("A100", 312.0, 79.1, "NVIDIA A100 80GB SXM data sheet"),
        _gpu("L40S", 362.05, 44.3, "NVIDIA L40S data sheet"),
        _gpu("RTX4090", 165.2, 23.5, "NVIDIA Ada GPU architecture white paper"),
    )
}
CPU = "cpu"


def find_device(name: str) -> DeviceSpec | None:
    """The device of the table with this name, in any spelling (`RTX 4090`, `nvidia h100`), or this machine's
    CPU; None for an unknown name."""
    plain = name.lower().removeprefix("nvidia").replace(" ", "").replace("-", "").replace("_", "")
    return this_cpu() if plain == CPU else GPUS.get(plain.removeprefix("geforce"))


def this_cpu() -> DeviceSpec:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return DeviceSpec("this CPU", _measured_flops(), memory, CPU_SHARE, "a matrix product here", cuda=False)


def _measured_flops() -> float:
    size, best = 768, float("inf")
    a = torch.rand(size, size)
    for _ in range(4):  # the first product starts the threads and is slower
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def this_gpu() -> DeviceSpec:
    """The CUDA device of this machine, with the speed of the table, or 0 if the table lacks the device."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    name = properties.name
    known = next((gpu for key, gpu in GPUS.items() if key in name.lower().replace(" ", "")), None)
    if known is None:
        return DeviceSpec(name, 0.0, properties.total_memory, MFU, "torch")
    return DeviceSpec(name, known.flops, properties.total_memory, MFU, known.source)
