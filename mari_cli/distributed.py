"""Communication between the processes of one run. With one process every function here does nothing.

All processes run the same program over the same items and keep the same weights. Decisions that depend on a
file or a clock are made by rank 0 and sent to the others, and only rank 0 writes.
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=1)
"""The time limit for other ranks to wait for rank 0, which ends a run that hangs. A dead process is noticed
at once, because its connections close and the launcher sees its end."""
BUCKET_BYTES = 64 * 2**20
"""The size of the gradients that are summed over the processes in one message."""
UNDER_WAY = 2
"""The most messages that are sent at the same time. Each holds a copy of its gradients."""

T = TypeVar("T")
R = TypeVar("R")

_objects: list[dist.ProcessGroup] = []
"""The group that carries objects and long waits, on the CPU; empty until the processes have joined."""
_simulated: list[tuple[int, int]] = []
"""(number of processes, rank) while the planner forecasts the work of that rank."""


@contextmanager
def join_processes() -> Iterator[None]:
    """Join the processes that the environment names (RANK, WORLD_SIZE, MASTER_ADDR …)."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    elif "OMP_NUM_THREADS" not in os.environ:  # without a limit every process would use all cores
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // neighbours))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _objects.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    yield
    # skipped after an error, because other processes may wait for this one and must see its end
    _objects.clear()
    dist.destroy_process_group()


@contextmanager
def simulate_rank(processes: int, process: int) -> Iterator[None]:
    """Behave as rank ``process`` of ``processes``: `share` gives the work of that rank, nothing is sent, and
    each collective returns a tensor of the right shape."""
    _simulated.append((processes, process))
    try:
        yield
    finally:
        _simulated.pop()


def size() -> int:
    if _simulated:
        return _simulated[-1][0]
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    if _simulated:
        return _simulated[-1][1]
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank_zero() -> bool:
    return rank() == 0


def share(count: int, *, of: int | None = None, processes: int | None = None) -> range:
    """The part of ``count`` things that rank ``of`` works on (None: this rank). Parts differ in size by at
    most one."""
    at, processes = rank() if of is None else of, processes or size()
    return range(count * at // processes, count * (at + 1) // processes)


# -- tensors -------------------------------------------------------------------------------------------------


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place; the same bits in all of them."""
    if size() > 1 and not _simulated:
        dist.all_reduce(tensor)
    return tensor


class GradientSum:
    """Replaces each gradient by its sum over all processes while a backward pass still makes other gradients.

    Gradients are sent in buckets, in one order that is the same in all processes: a bucket is sent when its
    gradients are made and all buckets before it are sent. All processes must have the same gradients.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        trained = [p for p in parameters if p.requires_grad] if size() > 1 else []
        self._buckets = list(_buckets(trained[::-1]))  # roughly the order of a backward pass
        self._bucket_of = {p: k for k, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[set[Tensor]] = []
        self._sent = 0
        self._under_way: deque[tuple[dist.Work | None, Tensor, list[Tensor]]] = deque()

    @contextmanager
    def during(self, done: Collection[Tensor] = ()) -> Iterator[None]:
        """Sum during the last backward pass of a step, which adds nothing to the gradients of ``done``. At
        its end all gradients are summed, also those without a part in this pass."""
        self._missing = [set(bucket) - set(done) for bucket in self._buckets]
        self._sent = 0
        hooks = [p.register_post_accumulate_grad_hook(self._made) for p in self._bucket_of]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        while self._sent < len(self._buckets):
            self._send()
        self._settle(0)

    def _made(self, parameter: Tensor) -> None:
        self._missing[self._bucket_of[parameter]].discard(parameter)
        while self._sent < len(self._buckets) and not self._missing[self._sent]:
            self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self._buckets[self._sent] if p.grad is not None]
        self._sent += 1
        if not gradients:
            return
        wide = torch.promote_types(gradients[0].dtype, torch.float32)  # round to 16 bits only after the sum
        flat = torch.cat([gradient.reshape(-1).to(wide) for gradient in gradients])
        work = None if _simulated else dist.all_reduce(flat, async_op=True)
        self._under_way.append((work, flat, gradients))
        self._settle(UNDER_WAY)

    def _settle(self, left: int) -> None:
        while len(self._under_way) > left:
            work, flat, gradients = self._under_way.popleft()
            if work is not None:
                work.wait()
            for gradient, whole in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(whole.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype and device, up to BUCKET_BYTES each."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES
        if bucket and (full or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def all_gather(tensor: Tensor, lengths: Sequence[int]) -> Tensor:
    """The tensors [n_i, …] of all processes, one after another; ``lengths`` are their n_i."""
    if size() == 1:
        return tensor
    longest = max(lengths)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    everyone = [torch.empty_like(padded) for _ in lengths]
    if not _simulated:
        dist.all_gather(everyone, padded)
    return torch.cat([part[:length] for part, length in zip(everyone, lengths, strict=True)])


# -- objects -------------------------------------------------------------------------------------------------


def broadcast(value: T) -> T:
    """The ``value`` of rank 0, in all processes. The others wait for rank 0, at most PATIENCE."""
    if size() == 1:
        return value
    told: list[T] = [value]
    dist.broadcast_object_list(told, src=0, group=_objects[0])
    return told[0]


def all_reduce_min(value: int | None) -> int | None:
    """The smallest ``value`` of all processes, in all processes. None is no value."""
    if size() == 1:
        return value
    values: list[int | None] = [None] * size()
    dist.all_gather_object(values, value, group=_objects[0])
    return min((bound for bound in values if bound is not None), default=None)


def object_group() -> dist.ProcessGroup | None:
    """The group that sends objects, on every device; None with one process."""
    return _objects[0] if size() > 1 else None


def barrier() -> None:
    """Wait until all processes have called this."""
    if size() > 1:
        dist.barrier(group=_objects[0])


def map_over_processes(work: Sequence[T], do: Callable[[T], R]) -> Iterator[R]:
    """The results of ``do`` for each piece of ``work``, in order, in all processes. Rank r of n does the
    pieces r, r + n, r + 2n, …

    All ranks do the same number of pieces, if necessary the last piece again, because all ranks gather
    sharded weights together.
    """
    for start in range(0, len(work), size()):
        result = do(work[min(start + rank(), len(work) - 1)])
        if size() == 1:
            yield result
            continue
        results: list[R | None] = [None] * size()
        dist.all_gather_object(results, result, group=_objects[0])
        yield from results[: len(work) - start]  # type: ignore[misc]
