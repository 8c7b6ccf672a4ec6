"""The environment of a run, which may change a number: versions, hardware and the commit."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mari_cli

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "rouge-score",
    "lm_eval",
    "wandb",
    "hydra-core",
    "omegaconf",
)
"""Packages whose version can change a number."""


def describe_environment(*, device: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Versions, hardware and commit, without names of host or user and without environment variables."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "mari": mari_cli.__version__,
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "git": _git_state(Path.cwd()),
        "device": dict(device) if device is not None else None,
    }


def version_of(package: str) -> str | None:
    """The version of an installed package; None where ``package`` is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(directory: Path) -> dict[str, Any] | None:
    """The commit of the project in ``directory``, and whether tracked files differ; None without a commit."""
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(directory: Path, *arguments: str) -> str | None:
    """The output of git; None where git or a repository is missing."""
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
