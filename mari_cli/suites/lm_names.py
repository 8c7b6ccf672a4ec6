"""Names of lm_eval's tasks, read from the text of its files: its own index of them takes half a minute."""

import difflib
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mari_cli.errors import UserError
from mari_cli.suites.lm_metrics import MMLU_SAMPLE

AROUND = r"""(?:^|$|[\s"',\[\]{}])"""


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise UserError for the first name that no file of lm_eval holds as a word."""
    for name in names:
        if name != MMLU_SAMPLE and not re.search(rf"{AROUND}{re.escape(name)}{AROUND}", _text()):
            raise unknown(name)


def unknown(name: str) -> UserError:
    known = re.findall(r"^(?:task|group): *[\"']?([^\s\"']+)", _text(), re.MULTILINE)
    close = difflib.get_close_matches(name, [*dict.fromkeys(known), MMLU_SAMPLE], n=3)
    return UserError(
        f"unknown benchmark `{name}`",
        f"did you mean {' or '.join(f'`{word}`' for word in close)}?"
        if close
        else "it is the name of a task or a group of lm_eval: `lm_eval ls tasks` lists them",
    )


@cache
def _text() -> str:
    """All YAML of lm_eval, also that in files without a suffix, which others include."""
    spec = find_spec("lm_eval")  # which does not import it
    assert spec is not None
    assert spec.submodule_search_locations is not None
    tasks = Path(spec.submodule_search_locations[0]) / "tasks"
    files = (file for file in sorted(tasks.rglob("*")) if file.suffix in ("", ".yaml") and file.is_file())
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
