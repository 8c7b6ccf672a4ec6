"""What `--help` says, word by word, and that its examples run as far as the config."""

import re
import shlex
from pathlib import Path

import pytest

from mari_cli import __version__, launch

COMMANDS = ["", "finetune", "unlearn", "plan", "evaluate", "sweep", "compare", "metrics", "audit", "verify",
            "requests", "ask", "push", "config", "config show", "config list", "runs",
            "runs list"]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_it_was_agreed(command, mari, golden):
    said = mari(*command.split(), "--help")
    assert (said.code, said.err) == (0, "")
    golden(f"help{'-' if command else ''}{command.replace(' ', '-')}.txt", said.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples(command, mari):
    lines = mari(*command.split(), "--help").out.rstrip().splitlines()
    examples = lines[lines.index("  Examples:") + 1 :]
    assert examples
    assert all(line.startswith("    mari ") for line in examples)


def test_without_a_word_mari_says_what_it_can_do(mari):
    assert mari().out == mari("--help").out


def examples() -> list[str]:
    golden = Path(__file__).parent / "golden"
    lines = [line for file in sorted(golden.glob("help*.txt")) for line in file.read_text().splitlines()]
    return sorted({re.split(r" {3,}", line.strip())[0] for line in lines if re.match(r" +mari \w", line)})


@pytest.mark.parametrize("example", examples())
def test_every_example_in_the_help_is_a_config_that_composes(example, mari, tmp_path):
    command, *words = shlex.split(example)[1:]
    if (
        "--resume" in words
        or "-c" in words
        or command in ("ask", "compare", "config", "metrics", "push", "requests", "runs", "verify")
    ):
        pytest.skip("needs a run or an experiment file; those have tests of their own")
    if ">" in words or "hydra.launcher.partition=gpu" in words:
        pytest.skip("needs a shell, or a cluster")
    task = command
    if any(word.startswith("sweep.") for word in words):
        assert launch.plan(launch.Experiment("unlearn", words)).num_trials
        return
    if command == "sweep":
        task = words[words.index("--task") + 1] if "--task" in words else "unlearn"
        words = [re.sub(r",.*", "", word) for word in words if "=" in word]
    if words and words[0] == "--from-log":  # what becomes of it in the config
        words = [
            f"{option[2:].replace('-', '_')}={log}"
            for option, log in zip(words[::2], words[1::2], strict=True)
        ]
    elif command in ("audit", "evaluate"):
        words = words[1:]
    if "--nproc" in words:  # no part of the config
        words = words[: words.index("--nproc")] + words[words.index("--nproc") + 2 :]
    if command == "plan":
        task, words = "unlearn", [word for word in words if "=" in word]
    assert mari("config", "show", "--task", task, *words).code == 0


def test_version(mari):
    assert mari("--version").out == f"mari {__version__}\n"
