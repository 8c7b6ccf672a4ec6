"""A run of all its processes while it is going on; what it leaves behind is told in `record`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mari_cli import distributed, runs
from mari_cli.begun import Inputs
from mari_cli.config import RunConfig
from mari_cli.losses import fused
from mari_cli.models.device import Compute
from mari_cli.runs import Run
from mari_cli.tasks.record import Recording, opened, recorded
from mari_cli.tasks.setting import device_info


@contextmanager
def recording(
    config: RunConfig,
    compute: Compute,
    *,
    task: str,
    command: Sequence[str],
    resume: bool,
    data: Mapping[str, Any],
    inputs: Inputs,
) -> Iterator[Recording]:
    """A run from its first file to its tracker's exit code. Nothing is written before this."""
    first = distributed.first()
    others = nullcontext(Run(Path(config.out), writes=False))
    mine = opened(config, command=command, task=task, resume=resume, inputs=inputs) if first else others
    with mine as run:
        distributed.wait()
        environment = runs.environment(device=device_info(compute)) | {"processes": distributed.size()}
        said = [f"precision: {compute.precision} ({compute.reason})"]
        if compute.device.type == "cuda":
            said.append(f"kernels: {fused.described(compute.device.type)}")
        with recorded(run, config, environment=environment, data=data, said=said) as record:
            yield record
