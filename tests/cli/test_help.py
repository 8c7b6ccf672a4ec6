"""What `--help` says, word by word; its examples, and those of README and guide, run as far as the config."""

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


ROOT = Path(__file__).parents[2]
NEEDS_A_RUN = ("ask", "compare", "config", "metrics", "push", "requests", "runs", "verify")
"""Commands that compose nothing: what they ask for is a run, and they have tests of their own."""


def examples() -> list[str]:
    """Commands of help, README and guide that compose a config: indented lines that begin with `mari`."""
    golden = ROOT / "tests/cli/golden"
    guide = ROOT / "mari_cli/docs/guide"
    files = [*golden.glob("help*.txt"), ROOT / "README.md", *guide.glob("*.md")]
    lines = [line for file in sorted(files) for line in file.read_text(encoding="utf-8").splitlines()]
    shown = [re.split(r" {3,}| +# ", line.strip())[0] for line in lines if re.match(r" {2,}mari \w", line)]
    return sorted({line for line in shown if composes(line)})


def composes(example: str) -> bool:
    """Not what needs a run, an experiment file, a shell or a cluster; nor what a reader is to fill in."""
    command, *words = shlex.split(example)[1:]
    elsewhere = {"--resume", "-c", ">", "…", "hydra.launcher.partition=gpu", "loss=NAME"}
    return command not in NEEDS_A_RUN and elsewhere.isdisjoint(words)


@pytest.mark.parametrize("example", examples(), ids=str)
def test_every_example_is_a_config_that_composes(example, mari):
    command, *words = shlex.split(example)[1:]
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
