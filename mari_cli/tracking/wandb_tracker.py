"""Tracking with Weights & Biases. Only this file imports wandb.

The run sends config, numbers, tables and artifacts, and the client adds its system metrics. The client sends
no host name, command line, code, git diff or list of packages, because these are switched off.
"""

import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb

from mari_cli.config import WandbConfig, WandbMode
from mari_cli.errors import UserError, first_line
from mari_cli.storage.json_files import atomic_write_json, damaged, read_object
from mari_cli.tracking import Tracker

Mode = Literal["online", "offline", "disabled"]
PATIENCE = 5
"""The number of seconds within which a server must answer."""

_ENVIRONMENT_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""The mode for each value of WANDB_MODE, the client's present and former values."""


def resolve_mode(config: WandbConfig) -> tuple[Mode, str]:
    """The mode and its reason. Raises UserError where the mode is unknown or needs a key that is missing.

    ``tracker.mode=online`` and ``offline`` override the environment. ``auto`` uses WANDB_MODE if it is set.
    Otherwise ``auto`` is online if there is an API key (WANDB_API_KEY, netrc, the client's settings, an
    identity token), else offline.
    """
    if config.mode is WandbMode.offline:
        return "offline", "tracker.mode=offline"
    if config.mode is WandbMode.online:
        mode, reason = _ENVIRONMENT_MODES["online"], "tracker.mode=online"
    elif said := os.environ.get("WANDB_MODE"):
        if said not in _ENVIRONMENT_MODES:
            raise UserError(
                f"W&B: unknown mode `{said}` in WANDB_MODE", "set it to `online`, `offline` or `disabled`"
            )
        mode, reason = _ENVIRONMENT_MODES[said], f"auto: WANDB_MODE={said}"
    elif _has_key():
        return "online", "auto: an API key is set"
    else:
        return "offline", "auto: no API key is set"
    if mode == "online" and not _has_key():
        raise UserError(
            "W&B: no API key for online mode", "log in with `wandb login`, or use `tracker.mode=offline`"
        )
    return mode, reason


def _known(identity: Path) -> str | None:
    """The id in the file ``identity`` of the W&B run that this run began; None where there is none."""
    if not identity.exists():
        return None
    known = read_object(identity).get("id")
    if not isinstance(known, str):
        raise damaged(identity, "it has no `id`")
    return known


def _has_key() -> bool:
    """Whether the client finds credentials, without a prompt and without a connection."""
    # silent, because a greeting would fetch the user's name; online, because it looks for a key only then
    wandb.setup(settings=wandb.Settings(silent=True, mode="online"))
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise UserError(
            # the other lines are advice about settings of the client
            f"W&B: the API key is not usable: {first_line(error).rstrip('.')}",
            "log in again with `wandb login`, or use `tracker.mode=offline`",
        ) from error


def require_server() -> None:
    """Raise UserError where the server does not answer, because the client would try for minutes."""
    url = str(wandb.setup(settings=wandb.Settings(silent=True, mode="online")).settings.base_url)
    told: list[str] = [f"no answer within {PATIENCE} seconds"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE):
                told.clear()
        except urllib.error.HTTPError:  # an error of HTTP is an answer, too
            told.clear()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            told[:] = [str(reason).lower()]

    asking = threading.Thread(target=ask, daemon=True)  # resolving a name may take longer than PATIENCE
    asking.start()
    asking.join(PATIENCE)
    if told:
        raise UserError(
            f"W&B: the server at `{url}` cannot be reached: {told[0]}",
            "check the connection and WANDB_BASE_URL, or use `tracker.mode=offline`",
        )


class WandbTracker(Tracker):
    """One W&B run in ``run_dir/wandb``. ``run_dir/wandb.json`` holds its id, to continue the run later."""

    def __init__(self, config: WandbConfig, *, run_dir: Path, run_config: dict[str, Any], name: str) -> None:
        mode, reason = resolve_mode(config)
        identity = run_dir / "wandb.json"
        known = _known(identity)
        try:
            wandb.setup(settings=wandb.Settings(silent=True, mode=mode))
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                tags=config.tags,
                name=name,
                config=run_config,
                dir=run_dir,
                id=known,
                resume=None if known is None else "allow",  # also offline, so that a sync appends
                mode=mode,
                reinit="create_new",  # do not continue a run that other code in this process has left open
                settings=_settings(),
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B: cannot start a run: {first_line(error).rstrip('.')}",
                "check the connection, `tracker.project` and `tracker.entity`, or use `tracker.mode=offline`",
            ) from error
        if known is None and mode != "disabled":
            atomic_write_json(identity, {"id": self._run.id})
        # The axis is mari's own step. The client's step cannot decrease, so the client would drop steps that
        # a resumed run repeats, and steps of a second phase, which begins at 0.
        self._run.define_metric("*", step_metric="step", step_sync=True)
        self._finished = False
        self.note = f"W&B: {mode} ({reason})"
        if mode == "offline":
            self.note += f"; upload it with `wandb sync {run_dir / 'wandb'}`"
        elif mode == "online":
            self.note += f": {self._run.url}"

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log({**values, "step": step})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show the table in the run's workspace. The client also stores the artifact ``run-ID-NAME``."""
        data = [list(row) for row in rows]
        self._run.log({name: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

    def artifact(self, path: Path, *, name: str, kind: str) -> None:
        """Send the artifact, with the run's id in its name, so that runs do not become versions of one."""
        artifact = wandb.Artifact(f"{name}-{self._run.id}", type=kind)
        # immutable: the client uploads the files in place, without a copy, because they do not change
        if path.is_dir():
            artifact.add_dir(str(path.resolve()), policy="immutable", skip_cache=True)
        else:
            artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        if not self._finished:
            self._finished = True
            self._run.finish(exit_code=exit_code)


def _settings() -> wandb.Settings:
    """Settings without output on the terminal, and without data about the machine except its load."""
    return wandb.Settings(
        silent=True,
        console="off",
        host="",
        username="",
        email="",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        label_disable=True,
        x_disable_meta=True,  # metadata is the command line, paths and user; environment.json is enough
        x_save_requirements=False,
        symlink=False,
        use_dot_wandb=False,
        init_timeout=2 * PATIENCE,  # seconds; the default is 90
    )
