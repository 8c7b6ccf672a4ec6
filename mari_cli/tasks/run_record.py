"""The record of a run that all its processes share; rank 0 writes it (`record`)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mari_cli import distributed
from mari_cli.losses import fused
from mari_cli.progress import say
from mari_cli.storage.environment import describe_environment
from mari_cli.storage.run import Run
from mari_cli.suites.benchmarks import describe_benchmarks
from mari_cli.tasks import inputs
from mari_cli.tasks.origin import origin_of
from mari_cli.tasks.preflight import Preflight
from mari_cli.tasks.record import RunRecord, begin_record, open_run
from mari_cli.tasks.setting import describe_data, device_info


@contextmanager
def hold_run(flight: Preflight[Any]) -> Iterator[Run]:
    """The directory of a run, made or found, while nobody else may write in it. Nothing is written before."""
    config, setting = flight.config, flight.setting
    for line in flight.description:
        say(line)
    begun_with = inputs.of_run(config, setting.compute, setting, flight.corpora, flight.suite, flight.models)
    others = nullcontext(Run(Path(config.out), writes=False))
    mine = open_run(config, flight.options, begun_with) if distributed.is_rank_zero() else others
    with mine as run:
        distributed.barrier()
        yield run


@contextmanager
def record_run(flight: Preflight[Any]) -> Iterator[RunRecord]:
    """Record a run, from its first file to its tracker's exit code. Nothing is written before."""
    with hold_run(flight) as run, record_in(run, flight) as record:
        yield record


@contextmanager
def record_in(run: Run, flight: Preflight[Any]) -> Iterator[RunRecord]:
    """Record ``run``, whose directory is held."""
    config, compute = flight.config, flight.setting.compute
    data = describe_data(flight.corpora, flight.suite) | describe_benchmarks(config.metrics)
    environment = describe_environment(device=device_info(compute)) | {"processes": distributed.size()}
    said = [f"precision: {compute.precision} ({compute.reason})"]
    if compute.device.type == "cuda":
        said.append(f"kernels: {fused.described(compute.device.type)}")
    origin = origin_of(flight)
    with begin_record(run, config, environment=environment, data=data, origin=origin, said=said) as record:
        record.tell(flight.notes)
        yield record
