"""Distributed checkpoints in safetensors: all processes write and read the tensors at once.

Each process writes its shards of the sharded tensors, and its part of the tensors that all processes have.
They are read back into any number of processes, in shards or whole.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mari_cli import distributed
from mari_cli.models.files import system_errors
from mari_cli.storage import atomic


@contextmanager
def directory_of_all(path: Path) -> Iterator[Path]:
    """`atomic.atomic_directory` for all processes: it appears once the block has ended well in each."""
    if distributed.is_rank_zero():
        with atomic.atomic_directory(path) as scratch, system_errors():
            yield distributed.broadcast(scratch)
            distributed.barrier()
    else:
        with system_errors():
            yield distributed.broadcast(path)
        distributed.barrier()
    distributed.barrier()


def write(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """``tensors`` as files in ``directory``, which is made. A name means the same tensor in every process, of
    which it may hold a shard; some may have names that others have not."""
    directory.mkdir(exist_ok=True)
    with _quietly():
        save(
            {name: tensor.detach() for name, tensor in tensors.items()},
            storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True),
            process_group=distributed.object_group(),
            no_dist=distributed.size() == 1,
        )


def read(directory: Path, room: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """What ``directory`` holds, by name. Of each tensor ``room`` gives the place: in shards, or whole."""
    about = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    tensors = {}
    for name, stored in about.items():
        assert isinstance(stored, TensorStorageMetadata)
        tensors[name] = room(name, stored.size, stored.properties.dtype).detach()
    with _quietly():
        load(
            tensors,
            storage_reader=HuggingFaceStorageReader(str(directory)),
            process_group=distributed.object_group(),
            no_dist=distributed.size() == 1,
        )
    return tensors


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences torch's warning about a single process, and raises the disk's error that torch has wrapped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            for cause, _ in error.failures.values():
                if isinstance(cause, OSError | SafetensorError):
                    raise cause from error
            raise
