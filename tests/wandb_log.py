"""What W&B has written of an offline run."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024


def records(log: Path, *, seconds: float = 30) -> list[Any]:
    """All records of a ``.wandb`` file. Its writer is a process of its own, which may not be through yet when
    the run is: waits for the record of the run's end."""
    until = time.monotonic() + seconds
    while True:
        found = list(_records(log))
        if any(record.WhichOneof("record_type") == "exit" for record in found) or time.monotonic() > until:
            return found
        time.sleep(0.2)


def _records(log: Path) -> Iterator[Any]:
    """Records of a ``.wandb`` file: 32 KiB blocks of pieces (checksum, length, kind), as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = log.read_bytes()
    if not data.startswith(b":W&B"):
        return
    position, pieces = 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0:  # not written any further
            return
        pieces += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(pieces)
            pieces = b""
