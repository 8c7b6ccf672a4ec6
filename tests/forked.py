"""`mari …` as a process of its own, which can be killed: forked from one that has imported torch already."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import undrawn

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["mari_cli.cli", "mari_cli.tasks.unlearn", "mari_cli.tasks.finetune", "undrawn"]
)
"""What starts processes of tests, each in a blink."""


def _main(words: Sequence[str], told: Path) -> None:
    from mari_cli.cli import main
    from mari_cli.report.plots import style

    style.to_svg = undrawn.to_svg
    with told.open("wb") as file, open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = ["mari", *words]
    main()


class Forked:
    """A process that runs `mari WORDS`. It has read no file and drawn no number before."""

    def __init__(self, *words: str, told: Path) -> None:
        """``told``: the file for what it says on stderr."""
        self.told = told
        self.process = SERVER.Process(target=_main, args=(words, told))
        self.process.start()

    def finish(self) -> None:
        """Wait until it has ended well."""
        self.process.join(300)
        assert self.process.exitcode == 0, self.told.read_text()

    def kill_after(self, run: Path, step: int) -> None:
        """SIGKILL once ``step`` is in the metrics: no handler runs, nothing is tidied up."""
        path, deadline = run / "metrics.jsonl", time.monotonic() + 300
        while time.monotonic() < deadline and self.process.is_alive():
            if path.exists() and f'"step": {step},' in path.read_text():
                self.process.kill()
                self.process.join()
                assert self.process.exitcode == -signal.SIGKILL
                return
            time.sleep(0.005)
        pytest.fail(f"the run ended before step {step} was seen: {self.told.read_text()}")
