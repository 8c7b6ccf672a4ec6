"""`mari …` as a process of its own, which can be killed: forked from one that has imported torch already."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest
import undrawn

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("mari_cli.cli", "mari_cli.launch", "mari_cli.report.page", "undrawn", "sklearn.metrics", "pytest"),
        *("mari_cli.tasks.unlearn", "mari_cli.tasks.finetune", "transformers.models.gpt2.modeling_gpt2"),
        "warmed",
    ]
)
"""What starts processes of tests, each in a blink; `start_server` comes first."""


@cache
def start_server() -> None:
    """Start the process from which others are forked. It passes over what it cannot import, and Python 3.11
    does not tell it where the modules of tests are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


Program = Callable[[Sequence[str]], None]


def mari(words: Sequence[str]) -> None:
    """The command ``mari`` with ``words`` after it."""
    from mari_cli.cli import main

    sys.argv = ["mari", *words]
    main()


def _run(program: Program, words: Sequence[str], told: Path) -> None:
    from mari_cli.report.plots import style

    style.to_svg = undrawn.to_svg
    with told.open("wb") as err, told.with_suffix(".out").open("wb") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(err.fileno(), sys.stderr.fileno())
    program(words)


class Forked:
    """A process that runs ``program`` with ``words``. It has read no file and drawn no number before."""

    def __init__(self, *words: str, told: Path, program: Program = mari) -> None:
        """``told``: the file for what it says on stderr; what it prints is beside it, in a file `.out`."""
        self.told = told
        start_server()
        self.process = SERVER.Process(target=_run, args=(program, words, told))
        self.process.start()

    def finish(self) -> None:
        """Wait until it has ended well."""
        self.process.join(300)
        assert self.process.exitcode == 0, self.told.read_text()

    def wait_for_step(self, run: Path, step: int) -> None:
        """Until ``step`` is in the metrics of ``run``."""
        path, deadline = run / "metrics.jsonl", time.monotonic() + 300
        while time.monotonic() < deadline and self.process.is_alive():
            if path.exists() and f'"step": {step},' in path.read_text():
                return
            time.sleep(0.005)
        pytest.fail(f"the run ended before step {step} was seen: {self.told.read_text()}")

    def kill_after(self, run: Path, step: int) -> None:
        """SIGKILL once ``step`` is in the metrics: no handler runs, nothing is tidied up."""
        self.wait_for_step(run, step)
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL
