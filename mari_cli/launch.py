"""Compose a run's config with Hydra and hand it to a task: here, over a sweep, or on a cluster.

The only module that imports Hydra. Past it, code sees the dataclasses of ``mari_cli.config``: a task never
meets a DictConfig, and whatever a task raises comes out of here as it is.
"""

import math
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydraFiles
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mari_cli import config, runs, sweeps
from mari_cli.begun import Inputs, require_same, versions
from mari_cli.config import RunConfig
from mari_cli.errors import UserError
from mari_cli.places import check_length, is_there, place
from mari_cli.retell import explain, impossible_value, unknown_key
from mari_cli.runs import RUN, Run
from mari_cli.typed import as_meant, is_path, quote, unquoted
from mari_cli.values import DEEPEST, leaves, refuse_senseless
from mari_cli.written import BEGIN, check_file, check_yaml

CONF = "mari_cli.conf"
TASKS = ("unlearn", "finetune", "evaluate")
CORPORA = ("forget", "retain", "holdout")
SCRATCH = "gpt2_tiny"
"""The default model, which is built and trained from nothing."""
# Hydra 1.4 deprecates the parameter, 1.3 warns without it.
_VERSION: dict[str, Any] = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}


class Task(Protocol):
    """A function of ``mari_cli.tasks``: one run, from its config to its result. Launchers pickle it."""

    def __call__(self, cfg: Any, /, *, command: list[str], resume: bool = False) -> Any: ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while ``task`` wrote to ``out``."""

    def __init__(self, task: str, out: str) -> None:
        super().__init__(task, out)
        self.task = task
        self.out = Path(out)


# -- what to compose -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """A command's config: the primary of ``task`` or a file of the user's, and overrides of it."""

    task: str
    overrides: Sequence[str] = ()
    file: Path | None = None
    model: str | None = None
    """What `evaluate` measures: a model, or a run, whose corpora it then takes too."""

    @property
    def primary(self) -> str:
        return self.file.stem if self.file else self.task

    @property
    def arguments(self) -> list[str]:
        """Every override for Hydra, weakest first: of two for one key the later one holds."""
        search_path = [f"hydra.searchpath=[pkg://{CONF}]"] if self.file else []
        overrides = [as_meant(override) for override in self.overrides]
        chosen = [*self._subject(), *([] if self.file else implied_choices(self.overrides)), *overrides]
        gentle = [] if self.file else trained_model_choices(chosen, self.task)
        return [*search_path, *gentle, *chosen]

    @property
    def command(self) -> list[str]:
        """What to type to get this run again."""
        file = ["-c", str(self.file)] if self.file else []
        return ["mari", self.task, *([self.model] if self.model else []), *file, *self.overrides]

    def _subject(self) -> list[str]:
        if self.model is None:
            return []
        if _is_run(Path(self.model)):
            return [f"{section}={_RUN_OPTION}" for section in ("model", *CORPORA)]
        return [
            "model=pretrained",
            f"model.path={quote(self.model)}",
            f"model.name={quote(_label(self.model))}",
        ]


def implied_choices(overrides: Sequence[str]) -> list[str]:
    """Group options that a path leaves no doubt about, so that nobody needs to type them.

    `model.path=X` means `model=pretrained`; `forget.path=X` means `forget=text` for a .txt file or a folder
    with some, else `forget=jsonl`; the same for retain and holdout. With a `retain.path` of its own, a text
    to forget is not cut in two.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    implied: dict[str, str] = {}
    if (path := given.get("model.path", "null")) != "null" and "model" not in given:
        implied["model"] = "pretrained"
        # one path, not a sweep over several
        if (whole := unquoted(path)) != path or is_there(path) or not re.search(r"[,()\[\]{}$]", path):
            implied["model.name"] = quote(_label(whole))
    for corpus in CORPORA:
        if (path := given.get(f"{corpus}.path", "null")) != "null" and corpus not in given:
            implied[corpus] = "text" if _is_text(unquoted(path)) else "jsonl"
    if "retain.path" in given and (given.get("forget") or implied.get("forget")) == "text":
        implied["forget.fraction"] = "null"
    return [f"{key}={value}" for key, value in implied.items()]


def trained_model_choices(overrides: Sequence[str], task: str) -> list[str]:
    """Any model but the default comes trained, and is trained on gently: not as one from scratch is."""
    given = dict(override.partition("=")[::2] for override in overrides)
    if given.get("model", SCRATCH) == SCRATCH:
        return []
    gentle = {
        "unlearn": {"train": "unlearn", "train@finetune": "finetune"},
        "finetune": {"train": "finetune"},
    }
    return [f"{key}={value}" for key, value in gentle.get(task, {}).items() if key not in given]


def _label(path: str) -> str:
    """A model's name in tables, from its path or hub id."""
    return Path(path).name or path


def _is_text(path: str) -> bool:
    folder = place(path)
    return path.endswith(".txt") or (os.path.isdir(folder) and any(folder.glob("*.txt")))


# -- Hydra ---------------------------------------------------------------------------------------------------


class FileConfigSource(HydraFiles):
    """Hydra's way to files, each of which is looked at before it is loaded: a user wrote it. It has the
    name of Hydra's own, which in the processes of a launcher leaves it in its place."""

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        check_yaml(file)
        found = super().load_config(config_path)
        if OmegaConf.is_dict(found.config) and OmegaConf.select(found.config, "hydra.searchpath") is not None:
            raise _not_ours("hydra.searchpath")  # Hydra would look there before anybody can look at it
        return found


def register() -> None:
    """Make the schemas known to Hydra as ``schema/NAME``, apart from the options that users choose from."""
    Plugins.instance()  # which registers Hydra's own sources
    SourcesRegistry.instance().types["file"] = FileConfigSource
    store = ConfigStore.instance()
    for name, schema in config.SCHEMAS.items():
        group, _, option = f"schema/{name}".rpartition("/")
        store.store(name=option, node=schema, group=group)


@contextmanager
def session(experiment: Experiment) -> Iterator[Any]:
    """Hydra's controller, with our configs on its search path; its errors are retold.

    Nothing of ours may raise inside: an error of a task's must not pass for one of its config.
    """
    register()
    if experiment.file:
        _check_file(experiment.file)
        check_yaml(experiment.file)
        scope: Any = hydra.initialize_config_dir(
            str(experiment.file.parent.resolve()), job_name="mari", **_VERSION
        )
    else:
        scope = hydra.initialize_config_module(CONF, job_name="mari", **_VERSION)
    if experiment.model and _is_run(Path(experiment.model)):
        _register_run(place(experiment.model))
    with scope:
        try:
            yield GlobalHydra.instance().hydra
        except UserError:
            raise
        except RecursionError:
            raise UserError(
                f"`{experiment.file or experiment.task}` builds on itself",
                "it, or a file beside it, is named as one that it builds on, as `unlearn.yaml`: rename it",
            ) from None
        # the last two are what OmegaConf raises where fields are set of a section that is null
        except (
            HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, AttributeError, AssertionError
        ) as error:  # fmt: skip
            raise explain(error, experiment.task) from error


@contextmanager
def _composing(experiment: Experiment) -> Iterator[Any]:
    """A session in which Hydra composes, and nothing else is done: what it stumbles over, somebody wrote."""
    _check_overrides(experiment.overrides)
    with session(experiment) as controller:
        try:
            yield controller
        except (TypeError, AttributeError, LookupError, AssertionError, ArithmeticError) as error:
            raise explain(error, experiment.task) from error


_BRACKETS = re.compile(r"[\[\]{}()]")


def _check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what Hydra's grammar would take a stack for, and an option that is no name."""
    for override in overrides:
        if override.lstrip("+~").startswith("hydra.searchpath"):  # Hydra would follow it while it composes
            raise _not_ours("hydra.searchpath")
        level = 0
        for bracket in _BRACKETS.findall(override):
            level += 1 if bracket in "[{(" else -1
            if level > DEEPEST:
                raise UserError(
                    f"`{override[:40]}…` is nested more than {DEEPEST} levels deep",
                    "no key of a run is: mend it",
                )
        key, _, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if (
            (_conf() / group).is_dir()
            and re.fullmatch(r"\s*[\[{].*[\]}]\s*", value, re.DOTALL)
            and "/" not in group
            and group
        ):
            raise UserError(
                f"`{group}` takes the name of one option, got `{value}`",
                f"`mari config list {group}` names them",
            )


def compose(experiment: Experiment) -> DictConfig:
    """The config as Hydra composes it, not yet checked by ``parse``."""
    return _composed(experiment)[0]


def _composed(experiment: Experiment) -> tuple[DictConfig, DictConfig]:
    """The config, and Hydra's own part of it, in which nothing is set but what is allowed."""
    with _composing(experiment):
        whole = hydra.compose(experiment.primary, experiment.arguments, return_hydra_config=True)
    ours = whole.hydra
    with open_dict(whole):
        del whole["hydra"]
    if _describes_a_run(whole):
        _check_hydra([ours], experiment)
    return whole, ours


_ALLOWED = ("hydra.launcher.", "hydra.sweeper.params.")
"""Keys of Hydra's that a user may set: how a launcher starts jobs, and what is swept over."""
_BY_RUN = (
    *("hydra.runtime.", "hydra.overrides.", "hydra.mode", "hydra.searchpath"),
    *(f"hydra.job.{key}" for key in ("name", "config_name", "override_dirname", "id", "num")),
)
"""Keys of Hydra's that follow from the run; a search path of the user's is refused before it is followed."""


def _check_hydra(found: Sequence[DictConfig], experiment: Experiment) -> None:
    """Refuse what a user has set of Hydra's own keys, besides the allowed ones: some name a directory to
    write in, some a Python object to build. They are compared with what Hydra has when nobody sets any."""
    if not (experiment.file or any("hydra" in override for override in experiment.overrides)):
        return
    launcher = str(found[0].runtime.choices["hydra/launcher"])
    plain = Experiment(experiment.task, [f"hydra/launcher={launcher}"])
    with _composing(plain):
        expected = hydra.compose(plain.primary, plain.arguments, return_hydra_config=True).hydra
    for ours in found:
        theirs = dict(leaves(_unresolved(expected), "hydra", built=True))
        given = dict(leaves(_unresolved(ours), "hydra", built=True))
        for key in [*given, *theirs]:
            allowed = key.startswith((*_ALLOWED, *_BY_RUN)) and not re.search(r"\._\w+_(\.|$)", key)
            if not allowed and given.get(key) != theirs.get(key):
                raise _not_ours(key)


def _unresolved(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg, resolve=False)


def _not_ours(key: str) -> UserError:
    hint = "of Hydra's keys, `hydra/launcher`, `hydra.launcher.KEY` and `hydra.sweeper.params` can be set"
    if key.endswith(".dir") or key.startswith("hydra.output"):
        hint = "`out=DIR` says where a run or a sweep is written"
    return UserError(f"`{key}` cannot be set", hint)


def show(experiment: Experiment) -> str:
    """The config as YAML: with `???` where it lacks a value, and refused where a value is impossible."""
    cfg = compose(experiment)
    if any(_missing(cfg)):
        return OmegaConf.to_yaml(cfg)
    parse(cfg, experiment)
    return OmegaConf.to_yaml(cfg, resolve=True)


def configured(experiment: Experiment) -> RunConfig:
    """The dataclasses of a run of ``experiment``'s task, which is not started."""
    cfg = parse(compose(experiment), experiment)
    _check_task(cfg, experiment)
    return cfg


def parse(cfg: DictConfig, experiment: Experiment | None = None) -> RunConfig:
    """The dataclasses of a composed config; what composition lets through but makes no sense is refused."""
    if not _describes_a_run(cfg):
        raise UserError(
            f"`{experiment.file if experiment else cfg}` does not describe a run",
            BEGIN,
        )
    kind = OmegaConf.get_type(cfg)
    assert kind is not None
    task = task_of(kind)
    for key, section in _surplus(cfg):
        raise unknown_key(key, section, task)
    for key in _missing(cfg):
        raise UserError(f"`{key}` is not set", f"set it: `{key}=…`")
    _settle_paths(cfg)
    try:
        refuse_senseless(_resolved(cfg), free=[key for key, node, _ in _nodes(cfg) if _is_free(node)])
        parsed = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise explain(error, task) from error
    except ValueError as error:
        refused = _refused_section(cfg)
        schema = OmegaConf.get_type(cfg._get_node(refused)) if refused else kind
        raise impossible_value(error, refused, schema) from error
    assert isinstance(parsed, RunConfig)
    return parsed


def _describes_a_run(cfg: DictConfig) -> bool:
    kind = OmegaConf.get_type(cfg)
    return is_dataclass(kind) and issubclass(kind, RunConfig)


def _is_free(node: Any) -> bool:
    """Whether a section takes any keys, as `model.architecture`."""
    return OmegaConf.is_dict(node) and not is_dataclass(OmegaConf.get_type(node))


MOST_COPIES = 1000
"""Of one value, that references to it may make: they multiply where one refers to another."""


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    copies = math.prod(
        max(1, value.count("${"))
        for _, value in leaves(_unresolved(cfg), built=True)
        if isinstance(value, str)
    )
    if copies > MOST_COPIES:
        raise UserError(
            f"the references `${{…}}` of this configuration make more than {MOST_COPIES} copies of a value",
            "write the value where it is wanted",
        )
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def task_of(kind: type) -> str:
    """The name of the task that a run's schema belongs to."""
    return next(task for task in TASKS if config.SCHEMAS[task] is kind)


def _check_file(file: Path) -> None:
    check_file(file)
    if file.suffix != ".yaml":
        raise UserError(f"`{file}` is not a .yaml file", "Hydra reads only files whose name ends in `.yaml`")


def _nodes(cfg: Any, prefix: str = "") -> Iterator[tuple[str, Any, type | None]]:
    """Every key with its node, unresolved, and the type of the section it is in."""
    for key in cfg:
        node = cfg._get_node(key)
        yield f"{prefix}{key}", node, OmegaConf.get_type(cfg)
        if OmegaConf.is_dict(node) and not (
            node._is_none() or node._is_missing() or node._is_interpolation()
        ):
            yield from _nodes(node, f"{prefix}{key}.")


def _surplus(cfg: DictConfig) -> Iterator[tuple[str, type]]:
    """Keys that `+KEY=VALUE` has added to a schema that does not have them."""
    for key, _, section in _nodes(cfg):
        if (
            section
            and is_dataclass(section)
            and key.rpartition(".")[2] not in {f.name for f in fields(section)}
        ):
            yield key, section


def _settle_paths(cfg: DictConfig) -> None:
    """Put the home directory into `out`, which other paths get where they are read; refuse every path that no
    file can have."""
    for key, node, section in list(_nodes(cfg)):
        if not (is_path(key) and is_dataclass(section)) or node._is_none() or node._is_interpolation():
            continue
        if isinstance(path := node._value(), str):
            check_length(key, path)
            if key == "out" and path:  # an empty one would become the directory that this shell is in
                OmegaConf.update(cfg, key, str(place(path)))


def _missing(cfg: DictConfig) -> Iterator[str]:
    """Keys that must be set and are not; ``OmegaConf.missing_keys`` would resolve interpolations and fail."""
    return (key for key, node, _ in _nodes(cfg) if node._is_missing())


def _refused_section(cfg: DictConfig) -> str | None:
    """The section whose values alone are refused; None where it takes several to contradict each other."""
    for key in cfg:
        if OmegaConf.is_dict(section := cfg._get_node(key)):
            try:
                OmegaConf.to_object(section)
            except ValueError:
                return str(key)
    return None


# -- one run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A run that was done: its config, and what its task returned."""

    config: RunConfig
    result: Any


@dataclass(frozen=True)
class _Raised:
    error: Exception


@dataclass(frozen=True)
class _Single:
    """What Hydra calls for one run. It never raises, so what Hydra raises is known to be about the config."""

    task: Task
    config: RunConfig
    command: list[str]

    def __call__(self, cfg: DictConfig) -> Outcome | _Raised:
        try:
            return Outcome(self.config, _perform(self.task, self.config, self.command))
        except Exception as error:  # raised again by run(), outside of Hydra
            return _Raised(error)


def run(task: Task, experiment: Experiment) -> Outcome:
    """Run ``task`` in this process. What it raises comes out as it is."""
    composed, ours = _composed(experiment)
    launcher = ours.runtime.choices["hydra/launcher"]
    cfg = parse(composed, experiment)  # before Hydra makes a directory for what is no run
    _check_task(cfg, experiment)
    if launcher != "basic":
        raise UserError(
            f"`hydra/launcher={launcher}` has no effect on a single run",
            "`mari sweep` launches a single run too; `hydra/launcher=basic` runs it here",
        )
    with session(experiment) as controller:
        job = controller.run(
            config_name=experiment.primary,
            task_function=_Single(task, cfg, experiment.command),
            overrides=experiment.arguments,
        )
        outcome = job.return_value
    if isinstance(outcome, _Raised):
        raise outcome.error
    assert isinstance(outcome, Outcome)
    return outcome


def resume(task: Task, name: str, run_directory: Path) -> Outcome:
    """Go on with a run of task ``name`` that was cut off, with the config that it wrote. What its files alone
    tell is checked here, before a task is loaded."""
    run = Run.unfinished(run_directory)
    cfg = replace(load_run_config(run_directory), out=str(run_directory))
    experiment = Experiment(name, ["--resume", str(run_directory)])
    _check_task(cfg, experiment, f"`mari {task_of(type(cfg))} --resume {run_directory}`")
    _require_resumable(run, cfg)
    return Outcome(cfg, _perform(task, cfg, experiment.command, resume=True))


def _require_resumable(run: Run, cfg: RunConfig) -> None:
    require_same(run, Inputs(values=versions(cfg)))
    with run.held():  # refused now where it is running, and not when the model is loaded
        pass


def _perform(task: Task, cfg: RunConfig, command: list[str], *, resume: bool = False) -> Any:
    try:
        return task(cfg, command=command, resume=resume)
    except KeyboardInterrupt as error:
        raise Interrupted(task_of(type(cfg)), cfg.out) from error


def _check_task(cfg: RunConfig, experiment: Experiment, instead: str | None = None) -> None:
    if (found := task_of(type(cfg))) != experiment.task:
        where = experiment.file or "the run"
        raise UserError(
            f"`{where}` describes a run of `mari {found}`, not of `mari {experiment.task}`",
            instead or f"`mari {found} -c {experiment.file}`",
        )


# -- sweeps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failed:
    """A job of a sweep that ended in an error."""

    reason: str


@dataclass(frozen=True)
class Job:
    """One combination of a sweep, composed and checked."""

    number: int
    overrides: tuple[str, ...]
    varied: dict[str, str]
    """What sets this job apart: the overrides that differ from job to job."""
    config: RunConfig
    command: list[str]

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.varied.items()) or self.config.out


@dataclass(frozen=True)
class Sweep:
    """Every job of a sweep, before the first has started."""

    experiment: Experiment
    task: str
    directory: Path
    jobs: tuple[Job, ...]
    resumed: bool = False


@dataclass(frozen=True)
class _Guarded:
    """What the launcher calls for each job: a failure becomes a value, and the other jobs go on."""

    task: Task
    jobs: tuple[Job, ...]
    """Those that are launched."""
    total: int

    def __call__(self, cfg: DictConfig) -> Any:
        job = self.jobs[HydraConfig.get().job.num]
        assert tuple(HydraConfig.get().overrides.task) == job.overrides, (
            "the launcher counts jobs differently"
        )
        print(f"job {job.number + 1} of {self.total}: {job.label}", file=sys.stderr, flush=True)
        try:
            resume = (Path(job.config.out) / RUN).is_file()
            return _perform(self.task, job.config, job.command, resume=resume)
        except UserError as error:
            return Failed(f"{error} ({error.hint})" if error.hint else str(error))
        except Exception as error:  # whatever it is, the sweep goes on and reports it
            traceback.print_exc()
            return Failed(f"{type(error).__name__}: {error}")


def plan(experiment: Experiment) -> Sweep:
    """Compose and check every combination, so that a typo in the last one does not wait for the first to end.

    Without `-c` the jobs are of the experiment's task; a file says itself what it describes.
    """
    with _composing(experiment) as controller:
        loader = controller.config_loader
        master = controller.compose_config(
            config_name=experiment.primary,
            overrides=experiment.arguments,
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
        )
        given = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        given += list(master.hydra.overrides.task)
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(given)
        combinations = [tuple(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
        composed = [loader.load_sweep_config(master, list(overrides)) for overrides in combinations]
        directory = Path(str(composed[0].hydra.sweep.dir))
    hydras = [master.hydra, *(cfg.hydra for cfg in composed)]
    for cfg in composed:
        with open_dict(cfg):
            del cfg["hydra"]
    configs = [parse(cfg, experiment) for cfg in composed]
    _check_hydra(hydras, experiment)
    task = task_of(type(configs[0]))
    if _out(composed[0]) != _out(
        OmegaConf.create((_conf() / f"{task}.yaml").read_text(encoding="utf-8"))
    ):  # the user has chosen one
        directory = Path(configs[0].out)
    sweeps.refuse_existing(directory)
    jobs = []
    for number, (overrides, varied, cfg) in enumerate(
        zip(combinations, _varied(combinations), configs, strict=True)
    ):
        name = "_".join(
            [str(number), *(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())]
        )
        out = directory / re.sub(r"[^\w.=+-]+", "-", name)[:100]
        kept = [override for override in overrides if not override.startswith("out=")]
        command = Experiment(task, kept, experiment.file).command
        jobs.append(Job(number, overrides, varied, replace(cfg, out=str(out)), command))
    return Sweep(experiment, task, directory, tuple(jobs))


def take_up(directory: Path, launcher: Sequence[str] = ()) -> Sweep:
    """The sweep in a directory, to go on with: finished jobs stay, cut ones go on, the rest begin.

    ``launcher``: overrides that choose another launcher than the sweep had. That no job, and nothing that a
    job names, has changed is checked before the first goes on.
    """
    about = sweeps.read(directory)
    jobs = []
    for number, job in enumerate(about["jobs"]):
        cfg = load_run_config(sweeps.job_directory(directory, number))
        cfg = replace(cfg, out=str(directory / job["name"]))
        jobs.append(Job(number, (), job["varied"], cfg, job["command"]))
    sweeps.require_same(directory, about, [job.config for job in jobs])
    with sweeps.held(directory):  # refused now where it is running
        for job in jobs:
            if (job.out / RUN).is_file() and not Run(job.out).finished:
                _require_resumable(Run.unfinished(job.out), job.config)
    experiment = Experiment(about["task"], list(launcher or about["launcher"]))
    return Sweep(experiment, about["task"], directory, tuple(jobs), resumed=True)


def sweep(task: Task, planned: Sweep) -> list[Any]:
    """Run ``task`` over every job that is not finished, through the configured launcher: results or Failed,
    in the jobs' order."""
    if not planned.resumed:
        _begin(planned)
    try:
        with sweeps.held(planned.directory):
            results = {job.number: Run(job.out).result() for job in planned.jobs if Run(job.out).finished}
            todo = [job for job in planned.jobs if job.number not in results]
            results |= zip([job.number for job in todo], _launch(task, planned, todo), strict=True)
    except KeyboardInterrupt as error:
        raise Interrupted("sweep", str(planned.directory)) from error
    return [results[job.number] for job in planned.jobs]


def _begin(planned: Sweep) -> None:
    experiment, jobs = planned.experiment, planned.jobs
    sweeps.begin(
        planned.directory,
        task=planned.task,
        command=["mari", "sweep", "--task", *experiment.command[1:]],
        launcher=[key for key in experiment.overrides if is_of_launcher(key)],
        jobs=[{"name": job.out.name, "varied": job.varied, "command": job.command} for job in jobs],
        texts=[config.to_yaml(job.config) for job in jobs],
        configs=[job.config for job in jobs],
    )


def _launch(task: Task, planned: Sweep, todo: Sequence[Job]) -> list[Any]:
    if not todo:
        return []
    experiment, directory = planned.experiment, planned.directory
    if planned.resumed:
        # what is composed for each job is not what it does: it only tells the launcher how many there are
        todo = [replace(job, overrides=(f"seed={job.number}",)) for job in todo]
        numbers = ",".join(str(job.number) for job in todo)
        experiment = replace(experiment, overrides=[f"seed={numbers}", *experiment.overrides])
        directory = directory / "resumed" / runs.now().replace(":", "-")
    arguments = [*experiment.arguments, f"hydra.sweep.dir={quote(str(directory))}"]
    with session(experiment) as controller:
        batches = controller.multirun(
            config_name=experiment.primary,
            task_function=_Guarded(task, tuple(todo), len(planned.jobs)),
            overrides=arguments,
        )
        return [job.return_value for batch in batches for job in batch]


def is_of_launcher(override: str) -> bool:
    """Whether an override is about where jobs run, not about what they do."""
    return override.startswith(("hydra/launcher=", "hydra.launcher."))


def _varied(combinations: Sequence[tuple[str, ...]]) -> list[dict[str, str]]:
    """Of each job's overrides, those that not every job has."""
    common = set(combinations[0]).intersection(*combinations[1:])
    return [
        dict(override.partition("=")[::2] for override in overrides if override not in common)
        for overrides in combinations
    ]


def _out(cfg: Any) -> Any:
    """`out` as it is written, unresolved."""
    return cfg._get_node("out")._value()


# -- configs on disk -----------------------------------------------------------------------------------------


_RUN_OPTION = "_run"
"""The option under which the sections of a run that is evaluated stand in their groups."""


def _is_run(path: Path) -> bool:
    return os.path.isfile(place(path) / "config.yaml")


def load_run_config(run: Path) -> RunConfig:
    """The config of the run in a directory, from its `config.yaml`: resolved, so nothing is composed.

    It names its task, and each section of several kinds its own.
    """
    if not _is_run(run):
        raise UserError(
            f"`{run}` is no run directory: it has no `config.yaml`",
            "`mari runs list` shows the runs there are",
        )
    try:
        data = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    except yaml.YAMLError as error:
        raise explain(error, "unlearn") from error
    assert isinstance(data, dict)
    tasks = {task: config.SCHEMAS[task] for task in TASKS}
    schema = tasks[_kind(data, "task", tasks, run)]
    cfg = OmegaConf.structured(schema)
    for key, section in data.items():
        group = config.kinds_of(str(key))
        if not group or key == "train" or not isinstance(section, dict):
            continue
        if key == "suite" and "protocol" in section:  # the key's name in earlier versions
            section["kind"] = section.pop("protocol")
        cfg[key] = group[_kind(section, "kind", group, run)]
    try:
        merged = OmegaConf.merge(cfg, data)
    except OmegaConfBaseException as error:
        raise explain(error, task_of(schema)) from error
    assert isinstance(merged, DictConfig)
    return parse(merged)


def _kind(data: dict[Any, Any], word: str, group: dict[str, type], run: Path) -> str:
    """The kind that ``data`` names under ``word``. Where it was saved before sections named theirs: the kind
    with its keys, or else the smallest that has them all; of several such the one of its label, which then
    still chose."""
    sizes = {
        kind: len(fields(schema))
        for kind, schema in group.items()
        if set(data) <= {field.name for field in fields(schema)} and data.get(word) in (None, kind)
    }
    if not sizes:
        raise UserError(
            f"`{run / 'config.yaml'}` has keys that this version does not know",
            "it was written by another version of mari, or by hand",
        )
    smallest = [kind for kind, size in sizes.items() if size == min(sizes.values())]
    return str(data["name"]) if data.get("name") in smallest else smallest[0]


def _register_run(run: Path) -> None:
    """Offer the sections of ``run`` as options of their groups; its checkpoint is the model."""
    cfg = load_run_config(run)
    model = replace(
        cfg.model,
        name=_label(str(run)),
        path=str(run),
        revision=None,
        architecture=None,
        tokenizer=None,
        lora=config.LoraConfig(),
    )
    sections = {"model": model, **{corpus: getattr(cfg, corpus) for corpus in CORPORA}}
    for group, node in sections.items():
        ConfigStore.instance().store(name=_RUN_OPTION, node=node, group=group, package=group)


@dataclass(frozen=True)
class Option:
    """A file in a group of conf/: what can be chosen as GROUP=NAME."""

    group: str
    name: str
    description: str


def options(group: str | None = None) -> list[Option]:
    """Every option of ``group``, or of all groups, with the first sentence of its file's comment."""
    groups = sorted(
        entry.name for entry in _conf().iterdir() if entry.is_dir() and not entry.name.startswith("_")
    )
    if group is not None and group not in groups:
        raise UserError(
            f"no config group `{group}`", f"the groups are {', '.join(f'`{name}`' for name in groups)}"
        )
    found = []
    for name in groups if group is None else [group]:
        for file in sorted(_conf().joinpath(name).iterdir(), key=lambda file: file.name):
            if file.name.endswith(".yaml"):
                comment = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
                text = (
                    " ".join(re.sub(r"^# ?", "", comment[0], flags=re.MULTILINE).split()) if comment else ""
                )
                found.append(Option(name, file.name.removesuffix(".yaml"), text))
    return found


def _conf() -> Any:
    """The folder conf/, wherever it is installed."""
    return resources.files(CONF)


# -- shell completion ----------------------------------------------------------------------------------------


def complete(task: str, incomplete: str) -> list[str]:
    """What ``incomplete`` may go on to, by Hydra's own matcher."""
    experiment = Experiment(task)
    with session(experiment) as controller:
        found = DefaultCompletionPlugin(controller.config_loader)._query(experiment.primary, incomplete)
    ours = (f"{incomplete}_", *(word for word in ("hydra", "schema") if not incomplete.startswith(word)))
    return [match for match in found if not match.startswith(ours)]
