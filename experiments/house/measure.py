"""The shape of the source, in numbers: how deep a run is, how large files are, and whether names are clear.

Usage: python experiments/house/measure.py
It prints one figure a line, with what the figure is made of below it. `tests/test_house.py` holds the limits.
"""

import ast
import contextlib
import io
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from torch.utils._python_dispatch import TorchDispatchMode

import mari_cli
from mari_cli.cli import main

ROOT = Path(mari_cli.__file__).parent
CONF = ROOT.parent / "conf"
SMALL = [
    "target=as_is",
    "gold=none",
    "model.architecture.n_layer=1",
    "model.architecture.n_embd=32",
    "model.tokenizer_vocab_size=512",
    "forget.people=2",
    "retain.people=6",
    "holdout.people=2",
    "train.steps=2",
    "train.stop.retain_drop=null",
    "train.stop.at_holdout=false",
    "train.forget_batch=2",
    "train.retain_batch=2",
    "metrics=fast",
    "metrics.bootstrap=20",
]
"""A run of `mari unlearn` that reaches its first step in seconds."""
INSIDE_A_FUNCTION = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
"""Frames that Python 3.11 adds for a comprehension: they are part of the function around them."""


# -- how deep a run is ---------------------------------------------------------------------------------------


class Reached(BaseException):
    """The first logits of the first training step; it carries the frames and ends the run."""

    def __init__(self, frames: Sequence[str]) -> None:
        super().__init__()
        self.frames = list(frames)


class UntilLogits(TorchDispatchMode):
    """Ends the run at the first matrix product of a training step outside of the backbone: the head's."""

    PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func._schema.name in self.PRODUCTS and (frames := frames_of_step(sys._getframe())):
            raise Reached(frames)
        return func(*args, **(kwargs or {}))


def frames_of_step(innermost: FrameType | None) -> list[str]:
    """The package's own frames from the command `unlearn` to here; none outside of a step's head."""
    own: list[str] = []
    stepping = False
    frame = innermost
    while frame is not None:
        code = frame.f_code
        file = Path(code.co_filename)
        if "transformers" in file.parts:
            return []
        if file.is_relative_to(ROOT):
            where = file.relative_to(ROOT).as_posix()
            if "evaluate" in code.co_name:
                return []
            stepping = stepping or (where == "train/loop.py" and code.co_name in ("fit", "_fit"))
            if code.co_name not in INSIDE_A_FUNCTION:
                own.append(f"{where}:{code.co_qualname.removesuffix('.__call__')}")
            if where.startswith("cli/") and code.co_name == "unlearn":
                return own[::-1] if stepping else []
        frame = frame.f_back
    return []


def frames_to_first_logits(*overrides: str) -> list[str]:
    """Frames of the package on the stack when `mari unlearn` makes the first logits of its first step."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = [*SMALL, f"out={directory}/run", f"cache={directory}/cache", *overrides]
        before, sys.argv = sys.argv, ["mari", "unlearn", *arguments]
        try:
            with UntilLogits(), contextlib.redirect_stderr(io.StringIO()) as said:
                main()
        except Reached as reached:
            return reached.frames
        except SystemExit:
            raise AssertionError(
                f"the run ended before a training step made logits: {said.getvalue()}"
            ) from None
        finally:
            sys.argv = before
    raise AssertionError("the command returned")


# -- how large the files are ---------------------------------------------------------------------------------


def lines_of_files(root: Path = ROOT) -> dict[str, int]:
    """Lines of every source file, by its path in the package, the longest first."""
    found = {
        file.relative_to(root).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in root.rglob("*.py")
    }
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


# -- whether names are clear ---------------------------------------------------------------------------------


def trees(root: Path = ROOT) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(root.rglob("*.py")):
        yield file.relative_to(root).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def names_with_two_meanings(root: Path = ROOT) -> dict[str, list[str]]:
    """Class names (a leading underscore does not count, a type alias does) that several files define."""
    where: dict[str, list[str]] = defaultdict(list)
    for file, tree in trees(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                where[node.name.lstrip("_")].append(file)
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id.lstrip("_")
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    where[name].append(file)
    return {name: files for name, files in sorted(where.items()) if len(files) > 1}


def renamed_classes(root: Path = ROOT) -> list[str]:
    """Classes that a file imports under another name, because their own is taken there."""
    return sorted(
        f"{file}: {alias.name} as {alias.asname}"
        for file, tree in trees(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mari_cli")
        for alias in node.names
        if alias.asname and alias.name[:1].isupper() and not alias.name.isupper()
    )


def participle_pairs(root: Path = ROOT) -> list[str]:
    """Pairs of functions that differ in the ending of a verb: `measure` and `measured` or `measuring`."""
    names = {
        node.name.lstrip("_")
        for _, tree in trees(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    pairs = []
    for name in sorted(names):
        stems = {name, name.removesuffix("e"), name + name[-1]}
        others = {stem + ending for stem in stems for ending in ("ed", "ing")} - {name}
        pairs += [f"{name}/{other}" for other in sorted(others & names)]
    return pairs


def files_naming(names: Sequence[str], roots: Sequence[Path]) -> dict[str, list[str]]:
    """Of each name, the source files in which it stands as a word."""
    texts = {
        file.as_posix().removeprefix(f"{ROOT.parent.as_posix()}/"): file.read_text(encoding="utf-8")
        for root in roots
        for file in sorted(root.rglob("*.py"))
    }
    words = {name: re.compile(rf"(?<![\w/]){re.escape(name)}(?![\w/])") for name in names}
    return {name: [file for file, text in texts.items() if word.search(text)] for name, word in words.items()}


def losses() -> list[str]:
    """Names of the baselines, and of the configuration of MarI: `mari` is the package's own name too."""
    names = {file.stem for file in (CONF / "loss").glob("*.yaml") if not file.stem.startswith("mari")}
    return sorted({*names, "MariConfig"})


def metrics() -> list[str]:
    from mari_cli.suites.registry import METRICS

    return sorted(METRICS)


# -- the report ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    name: str
    value: int
    made_of: Sequence[str]


def figures() -> Iterator[Figure]:
    frames = frames_to_first_logits()
    yield Figure("own frames from `mari unlearn` to the first logits of a step", len(frames), frames)
    npo = frames_to_first_logits("loss=npo")
    yield Figure("the same with loss=npo", len(npo), npo)
    lines = lines_of_files()
    largest = [f"{count:5} {file}" for file, count in lines.items()]
    yield Figure("lines of the package", sum(lines.values()), [])
    yield Figure("lines of the largest file", max(lines.values()), largest[:12])
    yield Figure("files of 500 lines and more", sum(count >= 500 for count in lines.values()), [])
    twice = names_with_two_meanings()
    yield Figure(
        "class names that several files define",
        len(twice),
        [f"{name}: {', '.join(files)}" for name, files in twice.items()],
    )
    renamed = renamed_classes()
    yield Figure("classes imported under another name", len(renamed), renamed)
    pairs = participle_pairs()
    yield Figure("pairs of functions that differ in a verb's ending", len(pairs), [", ".join(pairs)])
    yield _named("a loss", files_naming(losses(), [ROOT]))
    yield _named("a metric", files_naming(metrics(), [ROOT]))


def _named(what: str, named: Mapping[str, Sequence[str]]) -> Figure:
    counts = sorted(((len(files), name) for name, files in named.items()), reverse=True)
    return Figure(
        f"source files that name {what}, at most",
        counts[0][0],
        [f"median {counts[len(counts) // 2][0]}", *(f"{count:3} {name}" for count, name in counts[:6])],
    )


def report(tell: Callable[[str], None] = print) -> None:
    for figure in figures():
        tell(f"{figure.value:6}  {figure.name}")
        for line in figure.made_of:
            tell(f"          {line}")


if __name__ == "__main__":
    report()
