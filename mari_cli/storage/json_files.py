"""JSON on disk: standard JSON, in which a number that is not finite is null."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mari_cli.errors import UserError, reason_of
from mari_cli.storage.atomic import atomic_write_text


def atomic_write_json(path: Path, value: Any) -> None:
    """Write ``value`` as standard JSON, atomically; a number that is not finite becomes null."""
    atomic_write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """``value`` as JSON, in the format of a run's files."""
    return json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object on each line; a number that is not finite becomes null."""
    return "".join(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def finite(value: Any) -> Any:
    """``value`` with null in place of NaN and infinity, because standard JSON has neither."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError for other content."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise damaged(path, reason_of(error)) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(value, dict):
        raise damaged(path, "it is not a JSON object")
    return value


def damaged(path: Path, how: str) -> UserError:
    """The UserError for a damaged file; ``how`` describes the damage."""
    return UserError(f"`{path}` is damaged: {how}", "restore the file, or start a new run")
