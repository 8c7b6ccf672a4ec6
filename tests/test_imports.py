"""The rooms of the house and the arrows between them: imports run one way, and heavy ones have one door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mari_cli

ROOT = Path(mari_cli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "progress": {"errors"},
    "sections": set(),
    "lm_head": {"errors"},
    "config": {"losses", "sections"},
    "places": {"errors"},
    "options": {"config"},
    "search": {"errors"},
    "launch": {"errors", "config", "options", "places", "begun", "search", "storage"},
    "storage": {"errors", "places", "progress", "distributed"},
    "begun": {"errors", "config", "storage"},
    "distributed": set(),
    "transfer": set(),
    "hub": {"errors", "places", "progress"},
    "data": {"errors", "config", "places", "progress", "transfer", "hub"},
    "losses": {"sections", "lm_head", "transfer", "distributed"},
    "measure": set(),
    "models": {"errors", "config", "places", "progress", "storage", "distributed", "transfer", "hub", "data",
               "lm_head", "measure"},
    "metrics": {"errors", "losses"},
    "docs": {"errors"},
    "suites": {"errors", "config", "places", "progress", "storage", "distributed", "hub", "data",
               "lm_head", "models", "metrics"},
    "audit": {"errors", "config", "progress", "data", "lm_head", "models", "metrics", "suites"},
    "train": {"errors", "config", "progress", "storage", "distributed", "transfer", "data", "lm_head",
              "losses", "models", "measure"},
    "supports": {"errors", "places", "progress", "storage", "transfer", "data", "lm_head", "losses",
                 "models"},
    "tracking": {"errors", "config", "storage"},
    "report": {"errors", "search", "storage", "metrics", "docs", "suites"},
    "tasks": {"audit", "errors", "config", "sections", "options", "places", "progress", "storage", "begun",
              "distributed", "hub", "data", "losses", "lm_head", "models", "measure", "metrics", "search",
              "suites", "supports", "train", "tracking", "report"},
    "cli": {"errors", "config", "options", "hub", "launch", "search", "storage", "metrics", "suites", "docs",
            "tasks"},
    "__main__": {"cli"},
}  # fmt: skip
"""Room: the rooms it may import from. `mari_cli` itself holds the version and imports nothing."""

ONLY_DOOR = {"hydra": {"launch"}, "wandb": {"tracking"}, "lm_eval": {"suites"}, "typer": {"cli"},
             "optuna": {"search"}}  # fmt: skip
LIGHT = {"errors", "sections", "config", "options", "places", "launch", "search", "storage", "begun",
         "progress", "docs", "cli", "__main__"}  # fmt: skip
OFF_THE_WAY = {"tensor_cache.py"}
"""Files of such a room that only a task imports."""
HEAVY = {"torch", "transformers", "datasets", "lm_eval", "wandb", "optuna"}
HEAVY_FOR_HELP = HEAVY | {"hydra", "omegaconf", "rich", "matplotlib", "numpy"}


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imported(file: Path, *, module_level: bool = False) -> tuple[str, ...]:
    """Dotted names that ``file`` imports; at module level only, those that importing it runs."""
    left_out = set(map(id, _not_run(parsed(file)))) if module_level else set()
    return tuple(
        name for node in ast.walk(parsed(file)) if id(node) not in left_out for name in _named(node, file)
    )


def _not_run(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes below `if TYPE_CHECKING` or inside of a function."""
    for block in ast.walk(tree):
        typing_only = isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        if typing_only or isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.walk(block)


def _named(node: ast.AST, file: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{file}: imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_follow_the_arrows(file):
    here = room(file)
    if here == "__init__":
        assert not [name for name in imported(file) if name.startswith("mari_cli")]
        return
    assert here in ARROWS, f"`{here}` is no room of this house: give it a place in ARROWS"
    rooms = {name.split(".")[1] for name in imported(file) if name.startswith("mari_cli.")}
    rooms -= {here, "__version__"}
    assert rooms <= ARROWS[here], f"`{here}` must not import from {sorted(rooms - ARROWS[here])}"


def test_no_arrow_runs_in_a_circle():
    done: set[str] = set()
    while rest := {name for name in ARROWS if name not in done}:
        free = {name for name in rest if ARROWS[name] <= done}
        assert free, f"a circle among {sorted(rest)}"
        done |= free


@pytest.mark.parametrize("library", ONLY_DOOR)
def test_a_library_with_one_door_is_imported_nowhere_else(library):
    rooms = {room(file) for file in FILES for name in imported(file) if name.split(".")[0] == library}
    assert rooms <= ONLY_DOOR[library]


def test_losses_know_tensors_and_nothing_else():
    files = [file for file in FILES if room(file) == "losses"]
    libraries = {name.split(".")[0] for file in files for name in imported(file)}
    assert libraries - {"mari_cli"} - set(sys.stdlib_module_names) <= {"torch"}


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if room(file) in LIGHT and file.name not in OFF_THE_WAY],
    ids=lambda file: file.name,
)
def test_the_way_to_a_task_is_light(file):
    assert not HEAVY.intersection(name.split(".")[0] for name in imported(file, module_level=True))


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from mari_cli.cli import main\n"
        "sys.argv = ['mari', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code in (0, None)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Make a language model forget" in done.stdout
    assert not HEAVY_FOR_HELP.intersection(done.stderr.split())


def test_a_run_loads_neither_lm_eval_nor_scikit_learn_nor_matplotlib_at_its_start():
    code = (
        "import sys, mari_cli.tasks.unlearn\n"
        "assert not {'lm_eval', 'datasets', 'matplotlib', 'sklearn'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_is_composed_without_torch():
    code = (
        "import sys\n"
        "from mari_cli.launch import Experiment, compose, parse\n"
        "parse(compose(Experiment('unlearn')))\n"
        "assert 'torch' not in sys.modules, 'composing a config has loaded torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
