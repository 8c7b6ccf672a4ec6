"""As much of JSON Schema as result.schema.json uses; a word that is not understood here is an error."""

from typing import Any

WORDS = {"type", "const", "enum", "required", "properties", "additionalProperties", "items", "anyOf",
         "minimum", "$ref", "$defs", "$schema", "$id", "title", "description"}  # fmt: skip
TYPES = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def problems(
    value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "$"
) -> list[str]:
    """What is wrong with ``value``, each with its place; empty where nothing is."""
    root = root or schema
    assert set(schema) <= WORDS, f"{at}: this check does not understand {set(schema) - WORDS}"
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        ways = [problems(value, way, root, at) for way in schema["anyOf"]]
        return [] if [] in ways else ways[-1]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        return [f"{at}: {value!r} is no {' or '.join(kinds)}"]
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{at}: {value!r} is less than {schema['minimum']}")
    if isinstance(value, list) and "items" in schema:
        for place, entry in enumerate(value):
            found += problems(entry, schema["items"], root, f"{at}[{place}]")
    if isinstance(value, dict):
        found += [f"{at}: `{key}` is missing" for key in schema.get("required", []) if key not in value]
        others = schema.get("additionalProperties", True)
        for key, entry in value.items():
            if key in schema.get("properties", {}):
                found += problems(entry, schema["properties"][key], root, f"{at}.{key}")
            elif others is False:
                found.append(f"{at}: `{key}` is not known")
            elif isinstance(others, dict):
                found += problems(entry, others, root, f"{at}.{key}")
    return found
