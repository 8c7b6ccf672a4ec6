"""Weights & Biases through its own client; nothing else imports wandb.

What leaves the machine is what the run gives: config, numbers, tables and artifacts, plus the client's system
metrics. The host's name, the command line, the user's code, git diff and packages are switched off.
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
from mari_cli.errors import UserError
from mari_cli.storage.json_files import atomic_write_json, damaged, read_object

Mode = Literal["online", "offline", "disabled"]
PATIENCE = 5
"""Seconds within which a server must answer that it is there."""

_ENVIRONMENT_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""What WANDB_MODE may say, in the client's present and former words."""


def resolve_mode(config: WandbConfig) -> tuple[Mode, str]:
    """The mode and its reason, or a UserError where it cannot be had.

    ``tracker.mode=online`` and ``offline`` win over the environment; ``auto`` follows WANDB_MODE where it is
    set, and else is online with an API key (WANDB_API_KEY, netrc, the client's settings, an identity token)
    and offline without.
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
    """The id of the W&B run that this run began; None where it began none."""
    if not identity.exists():
        return None
    known = read_object(identity).get("id")
    if not isinstance(known, str):
        raise damaged(identity, "it has no `id`")
    return known


def _has_key() -> bool:
    """Whether the client finds credentials where it looks for them; asks nobody and contacts nobody."""
    # silent, as it would fetch the user's name to greet them; online, as it looks for no key otherwise
    wandb.setup(settings=wandb.Settings(silent=True, mode="online"))
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise UserError(
            f"W&B: the API key is not usable: {_one_line(error)}",
            "log in again with `wandb login`, or use `tracker.mode=offline`",
        ) from error


def require_server() -> None:
    """Refuse a server that does not answer, whatever it would answer: the client would try for minutes."""
    url = str(wandb.setup(settings=wandb.Settings(silent=True, mode="online")).settings.base_url)
    told: list[str] = [f"no answer within {PATIENCE} seconds"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE):
                told.clear()
        except urllib.error.HTTPError:  # an answer
            told.clear()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            told[:] = [str(reason).lower()]

    asking = threading.Thread(target=ask, daemon=True)  # a name may take longer to resolve than we wait
    asking.start()
    asking.join(PATIENCE)
    if told:
        raise UserError(
            f"W&B: the server at `{url}` cannot be reached: {told[0]}",
            "check the connection and WANDB_BASE_URL, or use `tracker.mode=offline`",
        )


def _one_line(error: Exception) -> str:
    """The first line says what happened; what follows is advice about the client's own settings."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")


class WandbTracker:
    """One W&B run, kept in ``run_dir/wandb``; ``run_dir/wandb.json`` holds its id, to go on with it later."""

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
                resume=None if known is None else "allow",  # recorded offline too: a sync appends
                mode=mode,
                reinit="create_new",  # never take over a run that somebody else in this process has left open
                settings=_settings(),
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B: cannot start a run: {_one_line(error)}",
                "check the connection, `tracker.project` and `tracker.entity`, or use `tracker.mode=offline`",
            ) from error
        if known is None and mode != "disabled":
            atomic_write_json(identity, {"id": self._run.id})
        # A step of our own as the axis: the client's may not go back, and it would drop what a resumed run
        # repeats and what a second phase counts from the beginning.
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
        """Shown in the run's workspace; the client also keeps it as the artifact ``run-ID-NAME``."""
        data = [list(row) for row in rows]
        self._run.log({name: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

    def artifact(self, path: Path, *, name: str, kind: str) -> None:
        """Named with the run's id, so that runs of a project do not become versions of one another."""
        artifact = wandb.Artifact(f"{name}-{self._run.id}", type=kind)
        # immutable: uploaded from where it lies, as it does not change any more; no copy outside the run
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
    """Say nothing on the terminal, tell nobody about the machine beyond how busy it is."""
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
        x_disable_meta=True,  # command line, paths, user; environment.json has what a reader needs
        x_save_requirements=False,
        symlink=False,
        use_dot_wandb=False,
        init_timeout=2 * PATIENCE,  # instead of 90
    )
