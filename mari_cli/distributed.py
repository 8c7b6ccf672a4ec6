"""Several processes that do one run together, and their few verbs; with one process each does nothing.

All of them run the same program over the same items and keep the same weights. What is decided from a file
or a clock is decided by the first and told to the others, and only the first writes.
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
"""How long the others wait for work that the first does alone. A process that dies is noticed at once, by its
closed connections and by the launcher; this ends what hangs otherwise."""
BUCKET_BYTES = 64 * 2**20
"""Of gradients that are summed over the processes in one message."""
UNDER_WAY = 2
"""Such messages at one time: each holds a copy of its gradients."""

T = TypeVar("T")
R = TypeVar("R")

_objects: list[dist.ProcessGroup] = []
"""The group over which objects travel and long waits are waited, once there is one: on the CPU, patient."""
_imagined: list[tuple[int, int]] = []
"""Processes there would be and which of them this is, while it is planned what that one does."""


@contextmanager
def joined() -> Iterator[None]:
    """This process as one of those that its environment tells of (RANK, WORLD_SIZE, MASTER_ADDR …)."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    elif "OMP_NUM_THREADS" not in os.environ:  # else each would take all cores, and all would wait for each
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // neighbours))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _objects.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    yield
    # not after an error: the others may be waiting for us, and our end is what they notice
    _objects.clear()
    dist.destroy_process_group()


@contextmanager
def imagined(processes: int, process: int) -> Iterator[None]:
    """As if this were that one of ``processes``, whatever it is one of: it has their share of the work, and
    tensors come back from the others with their shapes, and no word is said to anybody."""
    _imagined.append((processes, process))
    try:
        yield
    finally:
        _imagined.pop()


def size() -> int:
    if _imagined:
        return _imagined[-1][0]
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    if _imagined:
        return _imagined[-1][1]
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    return rank() == 0


def share(count: int, *, of: int | None = None, processes: int | None = None) -> range:
    """The stretch of ``count`` things that falls to a process, by default to this one: none is longer by more
    than one than another."""
    at, processes = rank() if of is None else of, processes or size()
    return range(count * at // processes, count * (at + 1) // processes)


# -- tensors -------------------------------------------------------------------------------------------------


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place; the same bits in all of them."""
    if size() > 1 and not _imagined:
        dist.all_reduce(tensor)
    return tensor


class GradientSum:
    """Replaces each gradient by its sum over all processes while a backward pass is still making others.

    In buckets whose order is fixed and the same in all processes: a bucket goes on its way when its gradients
    are made and all buckets before it have gone. All processes must have the same gradients at all.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        trained = [p for p in parameters if p.requires_grad] if size() > 1 else []
        self._buckets = list(_buckets(trained[::-1]))  # about as a backward pass makes them
        self._bucket_of = {p: k for k, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[set[Tensor]] = []
        self._sent = 0
        self._under_way: deque[tuple[dist.Work | None, Tensor, list[Tensor]]] = deque()

    @contextmanager
    def during(self, done: Collection[Tensor] = ()) -> Iterator[None]:
        """For the last backward pass of a step, which adds nothing to the gradients of ``done``; when it ends
        all gradients are summed, those too that it did not touch."""
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
        wide = torch.promote_types(gradients[0].dtype, torch.float32)  # 16 bits are rounded once, at the end
        flat = torch.cat([gradient.reshape(-1).to(wide) for gradient in gradients])
        work = None if _imagined else dist.all_reduce(flat, async_op=True)
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
    """Neighbours of one kind."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES
        if bucket and (full or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def concatenated(tensor: Tensor, lengths: Sequence[int]) -> Tensor:
    """The tensors [n_i, …] of all processes, one after another; ``lengths`` are their n_i."""
    if size() == 1:
        return tensor
    longest = max(lengths)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    everyone = [torch.empty_like(padded) for _ in lengths]
    if not _imagined:
        dist.all_gather(everyone, padded)
    return torch.cat([part[:length] for part, length in zip(everyone, lengths, strict=True)])


# -- objects -------------------------------------------------------------------------------------------------


def agreed(value: T) -> T:
    """The first process's ``value``, in all of them. Others wait for it as long as it takes."""
    if size() == 1:
        return value
    told: list[T] = [value]
    dist.broadcast_object_list(told, src=0, group=_objects[0])
    return told[0]


def least(value: int | None) -> int | None:
    """The least of all processes' values, in all of them; None, of a process, stands for no bound."""
    if size() == 1:
        return value
    values: list[int | None] = [None] * size()
    dist.all_gather_object(values, value, group=_objects[0])
    return min((bound for bound in values if bound is not None), default=None)


def objects() -> dist.ProcessGroup | None:
    """The group over which objects travel, whatever the device; None with one process."""
    return _objects[0] if size() > 1 else None


def wait() -> None:
    """Until all processes have come here."""
    if size() > 1:
        dist.barrier(group=_objects[0])


def spread(work: Sequence[T], do: Callable[[T], R]) -> Iterator[R]:
    """``do`` of each piece of ``work``, in order, in all processes: each process does every so manieth piece.

    All do equally many, the last piece more than once where it must be: sharded weights are gathered by all.
    """
    for start in range(0, len(work), size()):
        result = do(work[min(start + rank(), len(work) - 1)])
        if size() == 1:
            yield result
            continue
        results: list[R | None] = [None] * size()
        dist.all_gather_object(results, result, group=_objects[0])
        yield from results[: len(work) - start]  # type: ignore[misc]
