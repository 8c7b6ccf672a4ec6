"""The words of a sweep: which of its KEY=VALUE separate methods, which are searched, and which steer the
search itself.

A comma separates methods (`loss=npo,simnpo`), `choice(…)`, `range(…)` and `interval(…)` are searched, and
`sweep.KEY=VALUE` steers. `METHOD:KEY=VALUE` is a setting of one method alone, `METHOD:KEY=RANGE` its range.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from mari_cli.errors import UserError
from mari_cli.launch.typed import entries_of
from mari_cli.search.plan import PREFIX
from mari_cli.search.space import Interval, OneOf, Range, Scalar

_OF_METHOD = re.compile(r"([^\s:=]+):([\w./@]+)=(.*)", re.DOTALL)
MOST_VALUES = 10_000
HOW = "write `interval(1e-5,1e-3)`, `tag(log,interval(1e-5,1e-3))`, `int(interval(1,8))` or `choice(1,3,10)`"


@dataclass(frozen=True)
class Words:
    """What a user gave a sweep, by its kind, each as KEY=VALUE."""

    of_hydra: tuple[str, ...]
    """What Hydra composes, methods and ranges among them."""
    of_search: dict[str, str]
    """By name, without `sweep.`."""
    of_methods: tuple[tuple[str, str, str], ...]
    """(METHOD, KEY, VALUE or RANGE)."""


def take_apart(overrides: Sequence[str]) -> Words:
    """``overrides``, of which Hydra's grammar knows one kind alone."""
    of_hydra, of_search, of_methods = [], {}, []
    for override in overrides:
        key, sign, value = override.partition("=")
        if key.startswith(PREFIX) and sign:
            of_search[key.removeprefix(PREFIX)] = value
        elif found := _OF_METHOD.fullmatch(override):
            of_methods.append((found[1], found[2], found[3]))
        else:
            of_hydra.append(override)
    return Words(tuple(of_hydra), of_search, tuple(of_methods))


def steering_value(name: str, text: str) -> Any:
    """The value of `sweep.NAME` as it is typed: a number, a word, or a list; `2,3` is a list, too."""
    try:
        value = OverridesParser.create().parse_override(f"{name}={text}").value()
    except HydraException as error:
        if name == "report_overrides" and text.startswith("["):  # a shell has taken the quotes away
            return entries_of(text)
        raise UserError(
            f"`{PREFIX}{name}={text}` cannot be read", f"write `{PREFIX}{name}='[…]'` for a list"
        ) from error
    if isinstance(value, ChoiceSweep):
        value = value.list
    if isinstance(value, list):
        return [one.text if isinstance(one, QuotedString) else one for one in value]
    return value.text if isinstance(value, QuotedString) else value


def is_range(override: Override) -> bool:
    """Whether it is a range, and not a list of methods or one value."""
    value = override.value()
    of_methods = isinstance(value, ChoiceSweep) and value.simple_form
    return override.is_sweep_override() and not of_methods


def range_of(override: Override) -> Range:
    """What an override lets the search choose; UserError where that is nothing."""
    key, value = str(override.key_or_group), override.value()
    if isinstance(value, IntervalSweep):
        _check_tags(key, value.tags)
        assert value.start is not None
        assert value.end is not None
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return Interval(key, value.start, value.end, log="log" in value.tags, whole=whole)
    if isinstance(value, ChoiceSweep):
        _check_tags(key, value.tags - {"log"})
        return OneOf(key, tuple(_plain(key, one) for one in value.list))
    if isinstance(value, RangeSweep):
        numbers = list(islice(value.range(), MOST_VALUES + 1))
        if len(numbers) > MOST_VALUES:
            raise UserError(
                f"`{key}`: the range holds more than {MOST_VALUES} values", f"write an interval: {HOW}"
            )
        return OneOf(key, tuple(numbers))
    raise UserError(f"`{key}={override.get_value_element_as_str()}` is no range that can be searched", HOW)


def _check_tags(key: str, tags: set[str]) -> None:
    if unknown := sorted(tags - {"log"}):
        raise UserError(f"`{key}`: no range has the tag `{unknown[0]}`", HOW)


def _plain(key: str, value: Any) -> Scalar:
    if isinstance(value, QuotedString):
        return str(value.text)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"`{key}`: a value to choose is a number or a word, got {value}", HOW)
