"""What the words of a sweep come to: every combination of `KEY=A,B,…` composed and checked, and the ranges
that are left for a search."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mari_cli.config import RunConfig
from mari_cli.errors import UserError, nearest
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.groups import conf_folder
from mari_cli.launch.hydra_errors import explain
from mari_cli.launch.parse import parse
from mari_cli.launch.ranges import is_range, take_apart
from mari_cli.launch.session import check_hydra, compose_with_hydra, session
from mari_cli.launch.values import leaves

LONGEST_NAME = 100
"""Characters of the name of a job's directory."""


@dataclass(frozen=True)
class Composed:
    """Every combination of a sweep: of a search, its methods. Nothing is written yet."""

    experiment: Experiment
    """Without the words that steer a search."""
    given: Experiment
    """As it was typed."""
    task: str
    directory: Path
    combinations: list[tuple[str, ...]]
    lists: set[str]
    """The keys whose values the combinations are of."""
    configs: list[RunConfig]
    texts: list[str]
    """The configurations as YAML, with their references."""
    launcher: list[str]
    """Overrides that choose it, those of a file among them."""
    ranges: list[Override]
    """What is searched, of every method; with ``of_methods`` and ``steering`` empty: nothing is."""
    of_methods: list[tuple[str, Override]]
    own: list[tuple[str, Override]]
    """Settings of one method alone, which `combinations` hold."""
    left_out: set[str]
    """Methods that the file names, and the command line does not."""
    steering: dict[str, str]

    @property
    def is_search(self) -> bool:
        return bool(self.ranges or self.of_methods or self.steering)

    @property
    def varied(self) -> list[dict[str, str]]:
        """Of each combination the overrides that not all have, and the one value left of a file's list."""
        common = set(self.combinations[0]).intersection(*self.combinations[1:])
        common = {override for override in common if override.partition("=")[0] not in self.lists}
        return [
            dict(override.partition("=")[::2] for override in overrides if override not in common)
            for overrides in self.combinations
        ]


def compose_combinations(given: Experiment) -> Composed:
    """Compose and check every combination; a range takes no part in any."""
    words = take_apart(given.overrides)
    experiment = replace(given, overrides=words.of_hydra)
    with compose_with_hydra(experiment) as controller:
        loader = controller.config_loader
        master = _multirun_config(controller, experiment)
        parser = OverridesParser.create(config_loader=loader)
        params: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=False)
        params = params["params"] or {}  # unresolved: `${seed}` is another in each job
        in_file = take_apart([f"{key}={value}" for key, value in params.items()])
        task_overrides: Any = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
        parsed = parser.parse_overrides([*in_file.of_hydra, *task_overrides])
        last = {override.get_key_element(): override for override in parsed}  # what is typed holds
        of_hydra_in_file = parser.parse_overrides([*in_file.of_hydra])
        left_out = _words(of_hydra_in_file) - _words(last.values())
        of_file = [words for words in in_file.of_methods if words[0] not in left_out]
        typed_for = {(method, key): value for method, key, value in (*of_file, *words.of_methods)}
        own: list[tuple[str, Override]] = []
        of_methods: list[tuple[str, Override]] = []
        for (method, key), value in typed_for.items():
            override = parser.parse_override(f"{key}={value}")
            (of_methods if override.is_sweep_override() else own).append((method, override))
        steering = {**in_file.of_search, **words.of_search}
        searches = bool(of_methods or steering or any(one.is_interval_sweep() for one in last.values()))
        ranges = [override for override in last.values() if searches and is_range(override)]
        parted = [override for override in last.values() if override not in ranges]
        combinations = [tuple(job) for batch in BasicSweeper.split_arguments(parted, None) for job in batch]
        swept = {part.get_key_element() for part in parted if part.is_sweep_override()}
        swept_in_file = {one.get_key_element() for one in of_hydra_in_file if one.is_sweep_override()}
        lists = swept | (swept_in_file & {part.get_key_element() for part in parted})
        if "out" in {*swept, *(override.get_key_element() for _, override in own)}:
            raise UserError(
                "`out` is the directory of the whole sweep, so it has one value",
                "each run gets a directory of its own in it",
            )
        combinations = _with_own(combinations, lists, own)
        chosen = {
            job: " ".join(word for word in job if word.partition("=")[0] in lists) for job in combinations
        }
        for one, other in pairwise(sorted(combinations)):
            if one == other:
                raise UserError(
                    f"two runs of the sweep are the same: `{chosen[one]}`", "write each value once"
                )
        composed = []
        for job in combinations:
            try:
                composed.append(loader.load_sweep_config(master, list(job)))
            except HydraException as error:
                told = explain(error, experiment.task)
                alone = (
                    "`METHOD:KEY=VALUE` sets a key of one method alone, `METHOD:KEY=choice(…)` searches it"
                )
                if not chosen[job] or "chosen here" not in (told.hint or ""):
                    raise
                hint = told.hint if own else f"{told.hint}; {alone}"
                raise UserError(f"{told}, in `{chosen[job]}`", hint) from error
        directory = Path(str(composed[0].hydra.sweep.dir))
    hydras = [master.hydra, *(cfg.hydra for cfg in composed)]
    for cfg in composed:
        with open_dict(cfg):
            del cfg["hydra"]
    configs = [parse(cfg, experiment) for cfg in composed]
    check_hydra(hydras, experiment)
    task = configs[0].task
    if _out(composed[0]) != _out(
        OmegaConf.create((conf_folder() / f"{task}.yaml").read_text(encoding="utf-8"))
    ):  # the user has chosen one
        directory = Path(configs[0].out)
    return Composed(
        experiment=experiment,
        given=given,
        task=task,
        directory=directory,
        combinations=combinations,
        lists=lists,
        configs=configs,
        texts=[OmegaConf.to_yaml(cfg) for cfg in composed],
        launcher=_launcher(master.hydra, experiment),
        ranges=ranges,
        of_methods=of_methods,
        own=own,
        left_out=left_out,
        steering=steering,
    )


def _with_own(
    combinations: Sequence[tuple[str, ...]], lists: Collection[str], own: Sequence[tuple[str, Override]]
) -> list[tuple[str, ...]]:
    """Each combination with the settings of its own methods, which hold over those of every method.

    ``lists``: the keys whose values name methods. Raises UserError for a method that is in no combination.
    """
    found, known = [], dict[str, None]()
    for job in combinations:
        methods = [value for key, _, value in (word.partition("=") for word in job) if key in lists]
        known |= dict.fromkeys(methods)
        of_job = {override.get_key_element(): override for method, override in own if method in methods}
        kept = (word for word in job if word.partition("=")[0] not in of_job)
        found.append((*kept, *(str(override.input_line) for override in of_job.values())))
    for method, override in own:
        if method not in known:
            raise not_in_the_sweep(method, override, list(known))
        if (key := override.get_key_element()) in lists:
            raise UserError(
                f"`{method}:{override.input_line}` changes what the list `{key}=…` says",
                "write what is meant into the list",
            )
    return found


def not_in_the_sweep(method: str, override: Override, known: Sequence[str]) -> UserError:
    """The error that ``override`` is for a method that is none of ``known``."""
    known = [name for name in known if not re.fullmatch(r"[-+]?[\d.]+", name)]  # `seed=1,2` names nothing
    hint = f"the methods are {', '.join(known)}"
    if guess := nearest(method, known):
        hint += f"; did you mean `{guess}:…`?"
    if not known:
        hint = f"a list names methods, as `loss=npo,simnpo`; without one write `{override.input_line}`"
    return UserError(f"`{method}:{override.input_line}` is for a method that is not in the sweep", hint)


def _words(overrides: Iterable[Override]) -> set[str]:
    values = [one.value() for one in overrides]
    lists = [value.list if isinstance(value, ChoiceSweep) else [value] for value in values]
    return {word for words in lists for word in words if isinstance(word, str)}


def _multirun_config(controller: Any, experiment: Experiment) -> Any:
    return controller.compose_config(
        config_name=experiment.primary,
        overrides=experiment.arguments,
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )


def directory_name(name: str, end: str = "") -> str:
    """``name`` as the directory of a job has it; of a long one the beginning, and ``end`` whole."""
    return re.sub(r"[^\w.=+-]+", "-", name)[: LONGEST_NAME - len(end)] + end


def is_of_launcher(override: str) -> bool:
    """Whether an override is about where jobs run, not about what they do."""
    return override.startswith(("hydra/launcher=", "hydra.launcher."))


def _launcher(ours: DictConfig, experiment: Experiment) -> list[str]:
    """Overrides that choose the launcher as it was composed, from a file or from the command line."""
    choice = f"hydra/launcher={ours.runtime.choices['hydra/launcher']}"
    if not experiment.file:
        return [override for override in experiment.overrides if is_of_launcher(override)]
    plain = Experiment(experiment.task, [choice])
    with session(plain) as controller:
        theirs = _flat(_multirun_config(controller, plain).hydra.launcher)
    given = _flat(ours.launcher)
    return [
        choice,
        *(f"hydra.launcher.{key}={value}" for key, value in given.items() if value != theirs.get(key)),
    ]


def _flat(section: DictConfig) -> Mapping[str, Any]:
    return dict(leaves(OmegaConf.to_container(section, resolve=False), built=True))


def _out(cfg: Any) -> Any:
    """`out` as it is written, unresolved."""
    return cfg._get_node("out")._value()
