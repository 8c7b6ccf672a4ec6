"""Compose the configuration of one run, to start it, to show it, or to complete a typed word."""

import hydra
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from mari_cli.config import RunConfig
from mari_cli.errors import UserError, shell_path
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.parse import describes_a_run, missing_keys, nodes_of, parse
from mari_cli.launch.session import check_hydra, compose_with_hydra, session


def compose(experiment: Experiment) -> DictConfig:
    """The config that Hydra composes, before the checks of ``parse``. Raises UserError where Hydra cannot."""
    return compose_apart(experiment)[0]


def compose_apart(experiment: Experiment) -> tuple[DictConfig, DictConfig]:
    """The config without Hydra's section, and this section. Raises UserError where a key of Hydra's is set
    that a user may not set."""
    with compose_with_hydra(experiment):
        whole = hydra.compose(experiment.primary, experiment.arguments, return_hydra_config=True)
    ours = whole.hydra
    with open_dict(whole):
        del whole["hydra"]
    if describes_a_run(whole):
        check_hydra([ours], experiment)
    return whole, ours


def show(experiment: Experiment) -> str:
    """The config as YAML, with `???` for a missing value. Raises UserError for an impossible value."""
    cfg = compose(experiment)
    if any(missing_keys(nodes_of(cfg))):
        return OmegaConf.to_yaml(cfg)
    parse(cfg, experiment)
    return OmegaConf.to_yaml(cfg, resolve=True)


def configured(experiment: Experiment) -> RunConfig:
    """The config of a run of ``experiment``'s task. The run is not started."""
    cfg = parse(compose(experiment), experiment)
    check_task(cfg, experiment)
    return cfg


def check_task(cfg: RunConfig, experiment: Experiment, instead: str | None = None) -> None:
    if (found := cfg.task) != experiment.task:
        where = experiment.file or "the run"
        raise UserError(
            f"`{where}` describes a run of `mari {found}`, not of `mari {experiment.task}`",
            instead or f"`mari {found} -c {shell_path(experiment.file)}`",
        )


def complete(task: str, incomplete: str) -> list[str]:
    """Completions of the typed word ``incomplete``, found by Hydra."""
    experiment = Experiment(task)
    with session(experiment) as controller:
        found = DefaultCompletionPlugin(controller.config_loader)._query(experiment.primary, incomplete)
    ours = (f"{incomplete}_", *(word for word in ("hydra", "schema") if not incomplete.startswith(word)))
    return [match for match in found if not match.startswith(ours)]
