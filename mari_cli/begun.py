"""What a run was begun with, and whether that is still so: a resumed run must not become another.

`inputs.json` appears together with the run directory, before any step. It holds the SHA-256 of each content
that determines the run (config.yaml, corpora as they were read, weights, tokenizer, suite …) and, as they
are, the versions of the libraries that compute, the device and the precision.
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
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
"""How the name of what follows from a text and its tokenizer begins."""


@dataclass(frozen=True)
class Inputs:
    """What determines a run, by names that stand after "has changed: "."""

    contents: dict[str, str] = field(default_factory=dict)
    """SHA-256."""
    values: dict[str, str] = field(default_factory=dict)
    """As it is: shown where it has changed."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def versions(config: RunConfig) -> dict[str, str]:
    """Of mari, Python and the packages whose version can change a number of this run."""
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
    """Refuse to go on with ``run`` where anything in ``now`` is not what it was begun with."""
    begun = run.inputs()
    contents, values = begun["contents"], begun["values"]
    changed = [name for name, sha256 in now.contents.items() if contents.get(name) != sha256]
    if sources := [name for name in changed if not name.startswith(TOKENS)]:
        changed = sources  # from which the tokens follow
    others = {name: value for name, value in now.values.items() if values.get(name) != value}
    refuse_changed(run.path, "run", changed, {name: (values.get(name), new) for name, new in others.items()})


def refuse_changed(path: Path, kind: str, contents: list[str], values: Mapping[str, tuple[Any, str]]) -> None:
    """Raise the UserError that names all that changed, where anything has; of values, (before, now)."""
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
    """What pip takes to install those of ``versions`` that are packages."""
    for name, version in versions.items():
        if name in (*COMPUTING, "lm_eval", "torchao") and version not in (None, "not installed"):
            yield f"{name}=={str(version).partition('+')[0]}"
