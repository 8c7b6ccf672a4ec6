"""Checks that values from files of a run have the shape that a run writes, so that readers need no checks.

Shapes are written as JSON Schema, of which only a few keywords are used. Readers ignore unknown fields, so
only known and required fields are checked.
"""

import json
import re
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any

DEEPEST = 40
"""Deepest nesting of values; a run's own values have fewer than ten levels."""

_CHECKS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def _shape(kinds: str, **more: Any) -> dict[str, Any]:
    return {"type": kinds.split("|"), **more}


_TEXT, _TEXT_OR_NONE = _shape("string"), _shape("string|null")
ITEM = _shape(
    "object",
    required=["model", "set", "item"],
    properties={
        **dict.fromkeys(("model", "set"), _TEXT),
        **dict.fromkeys(("suite", "key", "fact"), _TEXT_OR_NONE),
        "item": _shape("integer"),
    },
    additionalProperties=_shape("number|null"),
)
"""A line of items.jsonl."""
STEP = _shape("object", properties={"kind": _TEXT}, additionalProperties=_shape("number|null|string|array"))
"""A line of metrics.jsonl."""
EXAMPLES = _shape(
    "array",
    items=_shape(
        "object", required=["answer"], properties={"answer": _TEXT}, additionalProperties=_TEXT_OR_NONE
    ),
)
ENVIRONMENT = _shape("object")
DATA = _shape("object|array", items=_shape("object"))
_ANY_TEXT = _shape("string|null|number|boolean")
CONFIG = _shape(
    "object",
    properties={
        "seed": _shape("integer|null"),
        "metrics": _shape(
            "object",
            properties={
                "bootstrap": _shape("integer|null", minimum=1, maximum=1_000_000),
                "confidence": _shape("number|null", minimum=0.001, maximum=0.999999),
                "prior": _shape("number|null", minimum=0, maximum=1),
            },
        ),
        "train": _shape("object|null", properties={"steps": _shape("integer|null"), "keep": _ANY_TEXT}),
        **{
            name: _shape("object|null", properties={"name": _ANY_TEXT})
            for name in ("forget", "model", "suite")
        },
    },
)
"""The parts of a config that a report reads."""


def result_schema() -> dict[str, Any]:
    """The schema of result.json: result.schema.json, which is documented, and stricter."""
    text = resources.files("mari_cli.docs").joinpath("result.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    schema["required"] = ["models", "task", "schema_version"]
    schema["$defs"]["model"]["required"] = ["metrics"]
    schema["$defs"]["estimate"]["required"] = ["value"]
    schema["$defs"]["training"]["required"] = ["steps"]
    schema["$defs"]["training"]["properties"] |= dict.fromkeys(
        ("precision", "precision_reason", "device", "layout", "kernels"), _TEXT_OR_NONE
    )
    schema["$defs"]["training"]["properties"]["gradient_checkpointing"] = _shape("boolean|null")
    schema["properties"] |= {
        **dict.fromkeys(("name", "created", "loss"), _TEXT_OR_NONE),
        "seconds": _shape("number|null"),
        "command": _shape("array|null", items=_TEXT),
        "notes": _shape("array|null", items=_TEXT),
    }
    return schema


def wrong(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "") -> str | None:
    """The first fault of ``value`` under ``schema``, with its place; None if there is none."""
    root = root or schema
    if "$ref" in schema:
        return wrong(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        ways = [wrong(value, way, root, at) for way in schema["anyOf"]]
        return None if None in ways else ways[-1]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_CHECKS[kind](value) for kind in kinds):
        return f"`{at or 'it'}` is {_describe_value(value)}, not {' or '.join(kinds)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        least, most = schema.get("minimum"), schema.get("maximum")
        if (least is not None and not value >= least) or (most is not None and not value <= most):
            return f"`{at}` is {_describe_value(value)}, out of range"
    if isinstance(value, list):
        return _first(
            wrong(entry, schema.get("items", {}), root, f"{at}[{i}]") for i, entry in enumerate(value)
        )
    if isinstance(value, dict):
        for key in schema.get("required", []):
            if key not in value:
                return f"{f'`{at}`' if at else 'it'} has no `{key}`"
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        others = others if isinstance(others, dict) else {}
        return _first(
            wrong(entry, known.get(key, others), root, f"{at}.{key}" if at else str(key))
            for key, entry in value.items()
        )
    return None


def _first(found: Iterable[str | None]) -> str | None:
    return next((words for words in found if words is not None), None)


def _describe_value(value: Any) -> str:
    kind = next((name for name, holds in _CHECKS.items() if holds(value)), type(value).__name__)
    return kind if kind in ("object", "array") else f"{json.dumps(value, default=str)[:40]}"


def too_deep(value: Any) -> bool:
    """Whether values are nested deeper than any run's."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            below
            for entry in level
            if isinstance(entry, dict | list)
            for below in (entry.values() if isinstance(entry, dict) else entry)
        ]
        if not level:
            return False
    return True


def has_lone_surrogate(text: str) -> bool:
    """Whether JSON's ``text`` has half of a surrogate pair, which no file in UTF-8 can hold."""
    if not re.search(r"\\u[dD][89a-fA-F]", text):
        return False
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
