"""Processes of a test: started once, talking over gloo, each giving back what it found."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

from forked import SERVER, start_server


def together(processes: int, work: Callable[..., Any], *arguments: Any, context: Any = SERVER) -> list[Any]:
    """``work(*arguments)`` in so many processes at once; what each returned, by rank. ``context``: how
    multiprocessing starts them."""
    if context is SERVER:
        start_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(rank, processes, port, queue, work, arguments), daemon=True)
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = {rank: pickle.loads(result) for rank, result in (queue.get() for _ in workers)}
    for worker in workers:
        worker.join()
    failed = [result for result in found.values() if isinstance(result, _Failed)]
    assert not failed, failed[0].text
    return [found[rank] for rank in range(processes)]


class _Failed:
    def __init__(self, text: str) -> None:
        self.text = text


def _work(rank: int, processes: int, port: int, queue: Any, work: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
    from mari_cli import distributed

    try:
        with distributed.join_processes():
            result = work(*arguments)
        queue.put((rank, pickle.dumps(result)))  # tensors by value: their sender ends before they are read
    except BaseException:
        queue.put((rank, pickle.dumps(_Failed(traceback.format_exc()))))
        os._exit(1)  # without a word to the others, which then end too
