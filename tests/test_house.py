"""The shape of the source does not grow back: limits on what experiments/house/measure.py counts."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import mari_cli

SCRIPT = Path(__file__).parents[1] / "experiments" / "house" / "measure.py"
FRAMES = 12
"""Own frames from `mari unlearn` to the first logits of a step."""
LONGEST = 490
"""Lines of a file."""
LINES = 42_693
"""Lines of the package. What is new may raise it: its commit says by how much, and for what."""
PAIRS = 3
"""Pairs of functions that differ in a verb's ending."""
READ_BY_NAME = {"retain_model", "both_model"}
"""Keys of the configuration that are read with getattr, by names in a list."""


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("loss", ["mari", "npo"])
def test_a_run_is_short(house, loss):
    frames = house.frames_to_first_logits(f"loss={loss}")
    assert len(frames) <= FRAMES, "\n".join(frames)
    assert frames[0].endswith(":unlearn")


def test_a_file_is_one_idea(house):
    assert not {file for file, lines in house.lines_of_files().items() if lines > LONGEST}


def test_the_package_does_not_grow_unseen(house):
    assert sum(house.lines_of_files().values()) <= LINES


def test_a_name_means_one_thing(house):
    assert not house.names_with_two_meanings()
    assert not house.renamed_classes()
    assert len(house.participle_pairs()) <= PAIRS


def test_what_a_source_of_support_is_stands_in_its_own_file():
    """Plan, preparation and cost ask the registry; `auto` alone knows that twins come first."""
    room = Path(mari_cli.__file__).parent / "tasks"
    naming = {
        file.relative_to(room).as_posix()
        for file in room.rglob("*.py")
        if re.search(r"SupportSource\.(siblings|assistant|base|reinforced|gold)\b", file.read_text())
    }
    assert naming == {"sources/registry.py"}


def test_every_key_of_the_configuration_is_read():
    """A key that nothing reads but the check of its value would change nothing."""
    keys, read = set(), set()
    for file in sorted(Path(mari_cli.__file__).parent.rglob("*.py")):
        tree = ast.parse(file.read_text())
        checks = [node for node in ast.walk(tree) if getattr(node, "name", None) == "__post_init__"]
        checked = {id(node) for check in checks for node in ast.walk(check)}
        read |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and id(n) not in checked}
        if file.parent.name in ("config", "losses"):
            keys |= {
                field.target.id
                for section in ast.walk(tree)
                if isinstance(section, ast.ClassDef)
                for field in section.body
                if isinstance(field, ast.AnnAssign)
            }
    assert keys - read == READ_BY_NAME


def test_the_files_that_begin_first_are_there():
    tests = Path(__file__).parent
    named = re.findall(r'"(test_\w+\.py)"', (tests / "conftest.py").read_text(encoding="utf-8"))
    assert len(named) == len(set(named)) > 30
    assert set(named) <= {path.name for path in tests.rglob("test_*.py")}
