"""The methods of a search: what each may choose, checked before the first step, and the configuration that a
choice makes of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, IntegerNode, OmegaConf

from mari_cli.config import RunConfig
from mari_cli.errors import UserError, did_you_mean
from mari_cli.launch import saved_sweep
from mari_cli.launch.combinations import Composed, not_in_the_sweep
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.hydra_errors import keys
from mari_cli.launch.parse import parse
from mari_cli.launch.ranges import is_range, range_of, steering_value
from mari_cli.launch.saved_config import add_schema, apply_changes
from mari_cli.launch.typed import as_meant, quote
from mari_cli.launch.unread import need_of, unread
from mari_cli.search.plan import SearchConfig, read_settings
from mari_cli.search.sampler import Sampler
from mari_cli.search.space import Assignment, Interval, OneOf, Range, combinations, from_plain
from mari_cli.storage.json_files import damaged
from mari_cli.storage.layout import CONFIG, SWEEP

BUDGET = {
    "unlearn": ("train.steps", "train.forget_batch", "train.retain_batch"),
    "finetune": ("train.epochs", "train.batch_size"),
}
"""By task, what a trial may spend: the same for every method."""
NEVER_SEARCHED = ("seed", "out", "cache", "task")


@dataclass(frozen=True)
class Method:
    """One combination of the comma lists, and its ranges."""

    number: int
    name: str
    varied: dict[str, str]
    overrides: tuple[str, ...]
    text: str
    """The configuration as YAML, with its references, before anything is chosen."""
    ranges: tuple[Range, ...]
    """Empty where nothing is searched."""

    @cached_property
    def _tree(self) -> DictConfig:
        return add_schema(yaml.safe_load(self.text), Path(self.name))

    def configured(self, changes: Mapping[str, Any]) -> RunConfig:
        """The configuration with ``changes`` by dotted key; UserError where it is impossible."""
        return parse(apply_changes(self._tree, changes))

    def node(self, key: str) -> Any:
        """What stands at ``key`` in the configuration, unresolved; None where it has no such key."""
        cfg: Any = self._tree
        for part in key.split("."):
            if not OmegaConf.is_dict(cfg) or cfg._is_none() or part not in cfg:
                return None
            cfg = cfg._get_node(part)
        return cfg

    def command(self, task: str, changes: Mapping[str, Any], file: Path | None) -> list[str]:
        """What to type to get the run with ``changes`` again."""
        kept = [override for override in self.overrides if not override.startswith("out=")]
        words = [f"{key}={as_typed(value)}" for key, value in changes.items()]
        return Experiment(task, [*kept, *words], file).command


def as_typed(value: Any) -> str:
    """A value on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quote(value) if isinstance(value, str) else repr(value)


def plan_methods(composed: Composed) -> tuple[SearchConfig, list[Method]]:
    """Every method of a search with its ranges, and how they are searched.

    Raises UserError for a range that no trial could be drawn of, for one of a key that a method lacks, and
    for budgets that are not the same.
    """
    if composed.task not in BUDGET:
        raise UserError(
            f"`mari {composed.task}` trains nothing that could be searched",
            "search a run of `mari unlearn` or `mari finetune`; `KEY=A,B` runs every value",
        )
    given = {name: steering_value(name, text) for name, text in composed.steering.items()}
    parts = zip(composed.varied, composed.combinations, composed.texts, strict=True)
    methods = []
    for number, (varied, overrides, text) in enumerate(parts):
        name = _name(composed, number)
        ranges = tuple(_ranges_of(composed, number, name))
        methods.append(Method(number, name, varied, overrides, text, ranges))
    known = list(dict.fromkeys(word for m in methods for word in (*m.varied.values(), m.name)))
    for prefix, override in composed.of_methods:
        if prefix not in known:
            raise not_in_the_sweep(prefix, override, known)
    if given.get("sampler") == Sampler.grid and given.get("trials") is None:
        sizes = [combinations(method.ranges) for method in methods if method.ranges]
        if sizes and sizes[0] < float("inf"):
            given["trials"] = int(sizes[0])
    settings = read_settings(given)
    methods = [replace(method, ranges=()) if _is_fixed(method, settings) else method for method in methods]
    _check_fixed(composed, methods, settings)
    for method in methods:
        for of_key in method.ranges:
            _check_range(method, of_key, composed)
        _check_read(method)
        _check_size(method, settings)
    _check_budgets(composed, methods)
    _check_seeds(composed, methods, settings)
    return settings, methods


def report_changes(settings: SearchConfig) -> dict[str, Any]:
    """`sweep.report_overrides` by dotted key."""
    changes = {}
    for word in settings.report_overrides:
        key, sign, value = as_meant(word).partition("=")
        if not sign or not key:
            raise UserError(
                f"`sweep.report_overrides` holds `{word}`, which is no KEY=VALUE",
                "write `sweep.report_overrides=['forget.path=other.jsonl']`",
            )
        changes[key] = steering_value(key, value)
    return changes


def every_config(methods: Sequence[Method], settings: SearchConfig) -> Iterator[RunConfig]:
    """Every configuration that may name a file: with each word that can be chosen, and the report's."""
    for method in methods:
        yield method.configured({})
        for of_key in method.ranges:
            if isinstance(of_key, OneOf) and any(isinstance(value, str) for value in of_key.values):
                yield from (method.configured({of_key.key: value}) for value in of_key.values)
        for seed in settings.report_seeds:  # a path may hold the seed
            yield method.configured({**report_changes(settings), "seed": seed})


def methods_as_plain(settings: SearchConfig, methods: Sequence[Method]) -> dict[str, Any]:
    """What `sweep.json` holds of a search, to be read by `read_methods`."""
    return {
        "settings": vars(settings),
        "methods": [
            {"name": method.name, "overrides": method.overrides, "ranges": [*map(asdict, method.ranges)]}
            for method in methods
        ],
    }


def read_methods(directory: Path, about: Mapping[str, Any]) -> tuple[SearchConfig, list[Method]]:
    """What `methods_as_plain` made, from `sweep.json`; UserError where it is no longer that."""
    try:
        search = about["search"]
        fields = dict(search["settings"])
        for name in ("report_seeds", "report_overrides", "fixed"):
            fields[name] = tuple(fields[name])
        settings = SearchConfig(**{**fields, "sampler": Sampler(fields["sampler"])})
        methods = [
            Method(
                number=number,
                name=method["name"],
                varied=job["varied"],
                overrides=tuple(method["overrides"]),
                text=(saved_sweep.job_directory(directory, number) / CONFIG).read_text(encoding="utf-8"),
                ranges=tuple(from_plain(of_key) for of_key in method["ranges"]),
            )
            for number, (method, job) in enumerate(zip(search["methods"], about["jobs"], strict=True))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(directory / SWEEP, "it does not say what is searched") from error
    return settings, methods


# -- which ranges a method has -------------------------------------------------------------------------------


def _name(composed: Composed, number: int) -> str:
    varied = {key: value for key, value in composed.varied[number].items() if key in composed.lists}
    if len(varied) == 1:
        return next(iter(varied.values()))
    loss = getattr(composed.configs[number], "loss", None)
    return " ".join(f"{key}={value}" for key, value in varied.items()) or (
        loss.name if loss else composed.task
    )


def _ranges_of(composed: Composed, number: int, name: str) -> Iterator[Range]:
    """Those of every method, without keys that are set for this one, then its own, which hold over them."""
    found = {str(override.key_or_group): override for override in composed.ranges}
    for word in composed.combinations[number]:
        found.pop(word.partition("=")[0], None)
    for prefix, override in composed.of_methods:
        if prefix in (name, *composed.varied[number].values()):
            found[str(override.key_or_group)] = override
    for override in found.values():
        if not is_range(override):
            raise UserError(
                f"`{name}:{override.input_line}` is no range",
                "write `METHOD:KEY=choice(1,3,10)`, or one value: `METHOD:KEY=3`",
            )
        yield range_of(override)


def _is_fixed(method: Method, settings: SearchConfig) -> bool:
    return any(name in (method.name, *method.varied.values()) for name in settings.fixed)


def _check_fixed(composed: Composed, methods: Sequence[Method], settings: SearchConfig) -> None:
    known = {word for method in methods for word in (*method.varied.values(), method.name)}
    for name in settings.fixed:
        if name not in known | composed.left_out:
            raise UserError(
                f"`sweep.fixed` names `{name}`, which is no method of the sweep",
                did_you_mean(name, known, f"the methods are {', '.join(sorted(known))}"),
            )
    for method in methods:
        if not method.ranges and not _is_fixed(method, settings):
            raise UserError(
                f"unequal budgets: `{method.name}` has no range to search",
                f"give it one, `{method.name}:KEY=choice(1,3,10)`, or say that it runs once as it comes: "
                f"`sweep.fixed=[{method.name}]`",
            )
    if not any(method.ranges for method in methods):
        raise UserError(
            "there is no range to search", "write `train.lr=interval(1e-5,1e-3)`, or leave out `sweep.…`"
        )


# -- whether a trial could be drawn --------------------------------------------------------------------------


def _check_range(method: Method, of_key: Range, composed: Composed) -> None:
    key = of_key.key
    if key in BUDGET[composed.task]:
        raise UserError(
            f"`{key}` is the budget of a trial, which is the same for all: it cannot be searched",
            f"set one value: `{key}=200`",
        )
    if key in NEVER_SEARCHED:
        hint = "settings are chosen on one seed; `sweep.report_seeds=[1,2]` measures them on others"
        raise UserError(f"`{key}` cannot be searched", hint if key == "seed" else "set one value")
    node = method.node(key)
    if node is None:
        raise _no_such_key(method, key, composed)
    if OmegaConf.is_dict(node) or OmegaConf.is_list(node):
        raise UserError(
            f"`{key}` is a section or a list, and a search chooses numbers and words",
            f"separate methods by commas: `{key}=A,B`",
        )
    if isinstance(node, IntegerNode) and isinstance(of_key, Interval) and not of_key.whole:
        told = f"`{key}` takes whole numbers, and the interval {of_key.ends} holds others"
        raise UserError(told, f"write `{key}=int(interval(LOW,HIGH))`")
    for value in of_key.extremes:
        method.configured({key: value})


def _check_read(method: Method) -> None:
    """Refuse a range of a key that nothing reads, whatever the other ranges choose."""
    for key in (of_key.key for of_key in method.ranges):
        others = [{one.key: value} for one in method.ranges if one.key != key for value in one.extremes]
        needs = [need_of(key, unread(method.configured(chosen))) for chosen in ({}, *others)]
        if all(needs):
            raise UserError(
                f"`{key}` is searched, and nothing of `{method.name}` reads it: it needs {needs[0]}",
                f"search it for the methods that read it alone: `METHOD:{key}=…`",
            )


def _no_such_key(method: Method, key: str, composed: Composed) -> UserError:
    there = keys(composed.task)
    told = f"`{key}` is searched, and `{method.name}` has no such key"
    if key in there:
        return UserError(told, f"search it for one method alone: `METHOD:{key}=…`")
    own = [known for known in there if method.node(known) is not None]
    return UserError(told, did_you_mean(key, own, "`mari config show` lists every key"))


def _check_size(method: Method, settings: SearchConfig) -> None:
    if not method.ranges:
        return
    size = combinations(method.ranges)
    if settings.sampler is Sampler.grid and size != settings.trials:
        raise UserError(
            f"unequal budgets: the grid of `{method.name}` has {size:g} combinations, and each method has "
            f"`sweep.trials={settings.trials}`",
            "give each method as many combinations of `choice(…)` as it has trials, or take another sampler",
        )
    if size < settings.trials:
        raise UserError(
            f"unequal budgets: `{method.name}` has {size:g} different settings, and `sweep.trials` is "
            f"{settings.trials}",
            f"give it a wider range, or set `sweep.trials={size:g}` for all",
        )


def _check_budgets(composed: Composed, methods: Sequence[Method]) -> None:
    for key in BUDGET[composed.task]:
        spent = [attrgetter(key)(config) for config in composed.configs]
        for method, value in zip(methods, spent, strict=True):
            if value != spent[0]:
                raise UserError(
                    f"unequal budgets: `{key}` is {spent[0]} for `{methods[0].name}` and {value} for "
                    f"`{method.name}`",
                    f"set one value for all: `{key}={spent[0]}`",
                )


def _check_seeds(composed: Composed, methods: Sequence[Method], settings: SearchConfig) -> None:
    seeds = {config.seed for config in composed.configs}
    if len(seeds) > 1:
        raise UserError(
            "a search chooses its settings on one seed, and `seed` has several",
            f"name the others for the report: `seed={min(seeds)} sweep.report_seeds="
            f"[{','.join(str(seed) for seed in sorted(seeds - {min(seeds)}))}]`",
        )
    if shared := seeds.intersection(settings.report_seeds):
        raise UserError(
            f"`sweep.report_seeds` holds seed {min(shared)}, on which the settings are chosen",
            "choose on one seed and report on others: another `seed=`, or leave it out of the list",
        )
    changes = report_changes(settings)
    searched = {of_key.key for method in methods for of_key in method.ranges}
    for key in changes:
        if key in (*NEVER_SEARCHED, *BUDGET[composed.task], *searched):
            raise UserError(
                f"`sweep.report_overrides` cannot change `{key}`",
                "`sweep.report_seeds` names the seeds; budget, place and what was chosen are the search's",
            )
    for method in methods if settings.report_seeds else ():
        for key in changes:
            if OmegaConf.is_dict(method.node(key)):
                raise UserError(
                    f"`sweep.report_overrides` cannot choose the section `{key}`",
                    f"set its keys: `{key}.…=VALUE`",
                )
        method.configured({**changes, "seed": settings.report_seeds[0]})


def short(settings: Assignment) -> str:
    """Settings in the name of a directory."""
    return "_".join(f"{key.rpartition('.')[2]}={as_typed(value)}" for key, value in settings.items())
