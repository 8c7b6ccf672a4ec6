"""The command as a function, and texts that must not change unnoticed."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mari_cli.cli import main

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def _undrawn(undrawn_figures: None) -> None:
    """tests/report draws."""


@pytest.fixture
def mari(monkeypatch, capfd, tmp_path) -> Callable[..., Said]:
    """`mari …` in this process, in an empty directory, on a terminal 100 columns wide without colours."""
    for name, value in {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Said:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["mari", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Said(int(stop.value.code or 0), out, err)

    return call


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare with tests/cli/golden/NAME, or write it: `MARI_GOLDEN=1 pytest tests/cli`; read the diff."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if os.environ.get("MARI_GOLDEN"):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")

    return compare
