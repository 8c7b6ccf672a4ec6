"""Shell completion of KEY=VALUE."""

import os


def complete_override(incomplete: str) -> list[str]:
    """The overrides that begin with ``incomplete``."""
    from mari_cli import launch
    from mari_cli.errors import UserError

    key = _key_before(incomplete)
    words = os.environ.get("COMP_WORDS", "").split()
    task = next((task for task in launch.TASKS if task in words), "unlearn")
    try:
        found = launch.complete(task, key + incomplete)
    except UserError:  # half a word often makes no valid config: nothing is offered
        return []
    return [match.removeprefix(key) for match in found]


def _key_before(incomplete: str) -> str:
    """`KEY=` in bash, which ends a word at `=` and expects only the text after it; empty in other shells."""
    if os.environ.get("_MARI_COMPLETE") != "complete_bash":
        return ""
    words = os.environ["COMP_WORDS"].split()
    before = words[: int(os.environ["COMP_CWORD"]) + 1]
    if incomplete and before[-1:] == [incomplete]:
        before.pop()
    return "".join(before[-2:]) if before[-1:] == ["="] else ""
