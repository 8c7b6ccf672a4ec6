"""Words of messages: numbers and their nouns, and commands that can be pasted."""

import re
from pathlib import Path

import pytest

import mari_cli
from mari_cli.errors import counted, shell_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((1, "item"), "1 item"),
        ((0, "item"), "0 items"),
        ((2, "item"), "2 items"),
        ((1, "process", "processes"), "1 process"),
        ((3, "process", "processes"), "3 processes"),
    ],
)
def test_one_is_no_plural(words, expected):
    assert counted(*words) == expected


NOUNS = "items|records|steps|tokens|epochs|layers|jobs|logs|sequences|cells|positions|questions"
NEVER_ONE = {
    *("max_new_tokens", "own", "golds", "sequences", "speed:,.0f", "training.chunk:,"),
    *("what", "MOST_LAYERS", "support['forward_tokens']:,"),
    *("len(listed)", "len(notes)", "len(paths)", "len(rows)", "len(records)", "len(both)"),
}
"""What stands before a noun and is not how many, or is more than one wherever the words are said."""


def test_whatever_is_counted_in_a_message_goes_through_one_function():
    found = [
        (path.name, match[0])
        for path in Path(mari_cli.__file__).parent.rglob("*.py")
        for match in re.finditer(rf"(?<!of ){{([^{{}}]+)}} ({NOUNS})\b", path.read_text(encoding="utf-8"))
        if match[1] not in NEVER_ONE
    ]
    assert found == []


def test_a_path_in_a_command_can_be_pasted():
    """`--resume my runs/a` would be two words for a shell."""
    command = re.compile(
        r"(?:--resume|mari (?:verify|compare|audit|evaluate|ask|push|requests)| -c) {(?!shell_path)"
    )
    assert shell_path("my runs/a") == "'my runs/a'"
    assert shell_path(Path("runs/a")) == "runs/a"
    found = [
        (path.name, line)
        for path in Path(mari_cli.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if command.search(line)
    ]
    assert found == []
