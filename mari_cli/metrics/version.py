"""The version of a definition: a hash of its code, so that nobody has to raise a number by hand."""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def version_of(*modules: str) -> str:
    """A hash of the code of ``modules`` (dotted names), which are not imported.

    Docstrings, comments and layout are left out, so that a change of words alone keeps the caches.
    """
    digest = hashlib.sha256()
    for module in sorted(set(modules)):
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):  # a lambda has one expression
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(f"{module} {ast.dump(tree)}".encode())
    return digest.hexdigest()[:16]


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
