"""What memory truly takes on a CPU, beside which a forecast is held."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def allocator_peak(work: Callable[[], object]) -> int:
    """The peak, in bytes, of the memory that ``work`` allocates on the CPU, from torch's profiler. This peak,
    which includes temporary memory inside operators, tests `MemoryTracker`."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    found: Any = profile.profiler
    events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of ``tensors``, each storage counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())
