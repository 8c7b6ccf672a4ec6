"""The inputs of a run, and the check that a resumed run still has the same inputs.

`inputs.json` appears together with the run directory, before any step. It holds the SHA-256 of each content
that determines the run (config.yaml, corpora as they were read, weights, tokenizer, suite …), and as plain
text the versions of the libraries that compute, the device and the precision.
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mari_cli
from mari_cli.config import FinetuneRun, OptimConfig, OptimizerName, RunConfig, UnlearnRun
from mari_cli.errors import UserError
from mari_cli.storage.environment import version_of
from mari_cli.storage.run import Run

COMPUTING = ("torch", "transformers", "tokenizers", "peft", "numpy", "scipy", "scikit-learn", "rouge-score")
"""Packages that every number may depend on."""
TOKENS = "the tokens of "
"""The beginning of the names of contents that follow from a text and its tokenizer."""


@dataclass(frozen=True)
class Inputs:
    """Everything that determines a run, by names that fit after "has changed: "."""

    contents: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of each content."""
    values: dict[str, str] = field(default_factory=dict)
    """Plain values, which a message shows where they have changed."""


def versions(config: RunConfig) -> dict[str, str]:
    """Versions of mari, of Python and of the packages that can change a number of this run."""
    packages = list(COMPUTING)
    if config.metrics.benchmarks:
        packages.append("lm_eval")
    trainings: list[OptimConfig] = []
    if isinstance(config, UnlearnRun | FinetuneRun):
        trainings.append(config.train)
    if isinstance(config, UnlearnRun):
        trainings.append(config.finetune)
    if any(training.optimizer is OptimizerName.adamw_8bit for training in trainings):
        packages.append("torchao")
    python = ".".join(platform.python_version_tuple()[:2])
    found = {package: version_of(package) or "not installed" for package in packages}
    return {"mari": mari_cli.__version__, "python": python, **found}


def require_same(run: Run, now: Inputs) -> None:
    """Raise UserError where anything in ``now`` differs from the inputs that ``run`` began with."""
    begun = run.inputs()
    contents, values = begun["contents"], begun["values"]
    changed = [name for name, sha256 in now.contents.items() if contents.get(name) != sha256]
    if sources := [name for name in changed if not name.startswith(TOKENS)]:
        changed = sources  # the tokens follow from these, so the message leaves the tokens out
    others = {name: value for name, value in now.values.items() if values.get(name) != value}
    refuse_changed(run.path, "run", changed, {name: (values.get(name), new) for name, new in others.items()})


def refuse_changed(path: Path, kind: str, contents: list[str], values: Mapping[str, tuple[Any, str]]) -> None:
    """Raise UserError with the changed ``contents`` and ``values`` (before, now), if there are any."""
    told = [*contents, *(f"{name} (was {before}, is {now})" for name, (before, now) in values.items())]
    if not told:
        return
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    back = " ".join(_requirements({name: before for name, (before, _) in values.items()}))
    put_back = "put back what it was begun with" + (f" (`pip install {back}`)" if back else "")
    raise UserError(
        f"{kind} `{path}` cannot go on, as something has changed since it began: {listed}",
        f"{put_back}, or start a new {kind} with another `out=`",
    )


def _requirements(versions: Mapping[str, Any]) -> Iterator[str]:
    """pip's requirements for those ``versions`` that are of packages."""
    for name, version in versions.items():
        if name in (*COMPUTING, "lm_eval", "torchao") and version not in (None, "not installed"):
            yield f"{name}=={str(version).partition('+')[0]}"
