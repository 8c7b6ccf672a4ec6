"""A session of Hydra that composes mari's configurations, and refuses keys that a user may not set."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydraFiles
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mari_cli import config
from mari_cli.errors import UserError
from mari_cli.launch.experiment import OF_USER, Experiment, is_run
from mari_cli.launch.groups import CONF, conf_folder
from mari_cli.launch.hydra_errors import explain
from mari_cli.launch.loader import ConfigLoaderImpl, KnownConfigs
from mari_cli.launch.parse import unresolved
from mari_cli.launch.saved_config import register_run
from mari_cli.launch.sources import ImportlibResourcesConfigSource, StructuredConfigSource
from mari_cli.launch.typed import quote
from mari_cli.launch.values import DEEPEST, leaves
from mari_cli.launch.yaml_files import check_file, check_yaml, is_shipped, require_defaults
from mari_cli.places import place

# Hydra 1.4 deprecates this parameter, and Hydra 1.3 warns without it
_VERSION: dict[str, Any] = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}


class FileConfigSource(HydraFiles):
    """Hydra's source of files, with a check of each file, which a user wrote, before it is loaded. The class
    has the name of Hydra's own class, so that the processes of a launcher keep it registered."""

    def is_config(self, config_path: str) -> bool:
        return not is_shipped(config_path) and super().is_config(config_path.removeprefix(OF_USER))

    def load_config(self, config_path: str) -> ConfigResult:
        config_path = config_path.removeprefix(OF_USER)
        check_yaml(Path(self.path, self._normalize_file_name(config_path)))
        found = super().load_config(config_path)
        if OmegaConf.is_dict(found.config) and OmegaConf.select(found.config, "hydra.searchpath") is not None:
            raise _forbidden("hydra.searchpath")  # Hydra would use the path before `check_hydra`
        _write_lists(found.config)
        return found


def _write_lists(cfg: Any) -> None:
    """Hydra takes text alone for what is swept over: a list, as of `sweep.report_seeds`, becomes text."""
    params: Any = OmegaConf.select(cfg, "hydra.sweeper.params") if OmegaConf.is_dict(cfg) else None
    for key in list(params) if OmegaConf.is_dict(params) else ():
        if OmegaConf.is_list(node := params._get_node(key)):
            items: Any = OmegaConf.to_container(node, resolve=False)
            params[key] = (
                f"[{','.join(quote(item) if isinstance(item, str) else str(item) for item in items)}]"
            )


_stored: dict[str, type] = {}
"""The schemas that Hydra's store has already, by name."""
_known: KnownConfigs = {}
"""The configs that were composed of mari's own options and ``_stored``."""


def register() -> None:
    """Register the schemas with Hydra as ``schema/NAME``, separate from the options that users choose."""
    Plugins.instance()  # registers Hydra's own sources, so it must come first
    sources = (FileConfigSource, ImportlibResourcesConfigSource, StructuredConfigSource)
    SourcesRegistry.instance().types.update({source.scheme(): source for source in sources})
    store = ConfigStore.instance()
    for name, schema in config.SCHEMAS.items():
        if _stored.get(name) is not schema:  # storing all takes a quarter of the time that composing takes
            group, _, option = f"schema/{name}".rpartition("/")
            store.store(name=option, node=schema, group=group)
            _stored[name] = schema
            _known.clear()


@contextmanager
def session(experiment: Experiment) -> Iterator[Any]:
    """Hydra's controller, with mari's configs on its search path. Errors of Hydra are raised as UserError.

    A task must not run inside, because an error of the task would look like an error of its config.
    """
    register()
    run = place(experiment.model) if experiment.model and is_run(Path(experiment.model)) else None
    if experiment.file:
        check_file(experiment.file)
        if experiment.file.suffix != ".yaml":
            raise UserError(
                f"`{experiment.file}` is not a .yaml file",
                f"rename it, as `{experiment.file.stem}.yaml`: Hydra reads no other ending",
            )
        check_yaml(experiment.file)
        require_defaults(experiment.file, experiment.task)
        scope: Any = hydra.initialize_config_dir(
            str(experiment.file.parent.resolve()), job_name="mari", **_VERSION
        )
    else:
        scope = hydra.initialize_config_module(CONF, job_name="mari", **_VERSION)
    known = {} if experiment.file or run else _known  # the files of a user may change
    with scope:
        try:
            if run:
                register_run(run)
            controller: Any = GlobalHydra.instance().hydra
            controller.config_loader = ConfigLoaderImpl(controller.config_loader.config_search_path, known)
            yield controller
        except UserError:
            raise
        except RecursionError:
            raise UserError(
                f"`{experiment.file or experiment.task}` builds on itself",
                "its `defaults` names itself, or a file that builds on it: name another",
            ) from None
        # OmegaConf raises the last two where a field of a section is set that is null
        except (
            HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, AttributeError, AssertionError
        ) as error:  # fmt: skip
            raise explain(error, experiment.task) from error


@contextmanager
def compose_with_hydra(experiment: Experiment) -> Iterator[Any]:
    """A session for composing only. Here even a TypeError of Hydra comes from the user's input, so it is
    raised as UserError, too."""
    _check_overrides(experiment.overrides)
    with session(experiment) as controller:
        try:
            yield controller
        except (TypeError, AttributeError, LookupError, AssertionError, ArithmeticError) as error:
            raise explain(error, experiment.task) from error


_BRACKETS = re.compile(r"[\[\]{}()]")


def _check_overrides(overrides: Sequence[str]) -> None:
    """Refuse deeply nested overrides, which would exhaust the stack of Hydra's parser, and a group with a
    list or a dictionary in place of an option's name."""
    for override in overrides:
        if override.lstrip("+~").startswith("hydra.searchpath"):  # Hydra uses the path while composing
            raise _forbidden("hydra.searchpath")
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
            (conf_folder() / group).is_dir()
            and re.fullmatch(r"\s*[\[{].*[\]}]\s*", value, re.DOTALL)
            and "/" not in group
            and group
        ):
            raise UserError(
                f"`{group}` takes the name of one option, got `{value}`",
                f"`mari config list {group}` names them",
            )


_ALLOWED = ("hydra.launcher.", "hydra.sweeper.params.")
"""Keys of Hydra that a user may set: the settings of a launcher, and the values of a sweep."""
_BY_RUN = (
    *("hydra.runtime.", "hydra.overrides.", "hydra.mode", "hydra.searchpath"),
    *(f"hydra.job.{key}" for key in ("name", "config_name", "override_dirname", "id", "num")),
)
"""Keys of Hydra that follow from the run. A user's search path is refused earlier, before Hydra uses it."""


def check_hydra(found: Sequence[DictConfig], experiment: Experiment) -> None:
    """Raise UserError for a key of Hydra that a user may not set, because such a key may name a directory for
    output or a Python object to build. The values are compared with those of a plain session."""
    if not (experiment.file or any("hydra" in override for override in experiment.overrides)):
        return
    launcher = str(found[0].runtime.choices["hydra/launcher"])
    plain = Experiment(experiment.task, [f"hydra/launcher={launcher}"])
    with compose_with_hydra(plain):
        expected = hydra.compose(plain.primary, plain.arguments, return_hydra_config=True).hydra
    for ours in found:
        theirs = dict(leaves(unresolved(expected), "hydra", built=True))
        given = dict(leaves(unresolved(ours), "hydra", built=True))
        for key in [*given, *theirs]:
            allowed = key.startswith((*_ALLOWED, *_BY_RUN)) and not re.search(r"\._\w+_(\.|$)", key)
            if not allowed and given.get(key) != theirs.get(key):
                raise _forbidden(key)


def _forbidden(key: str) -> UserError:
    hint = "of Hydra's keys, `hydra/launcher`, `hydra.launcher.KEY` and `hydra.sweeper.params` can be set"
    if key.endswith(".dir") or key.startswith("hydra.output"):
        hint = "`out=DIR` says where a run or a sweep is written"
    return UserError(f"`{key}` cannot be set", hint)
