"""A run while it is going on: its directory, its tracker, its numbers, and its end, good or bad."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mari_cli.begun import Inputs, require_same
from mari_cli.config import ModelConfig, RunConfig, to_plain, to_yaml
from mari_cli.errors import UserError, shell_path
from mari_cli.metrics.metric import logged_as
from mari_cli.options import RunOptions
from mari_cli.places import place
from mari_cli.progress import say
from mari_cli.report.model_card import CARD, model_card
from mari_cli.report.read import SCHEMA_VERSION, read_run
from mari_cli.storage import atomic, json_files
from mari_cli.storage.layout import CHECKPOINT, METRICS, RUN
from mari_cli.storage.run import Run
from mari_cli.tasks.examined import Examined, as_json
from mari_cli.tasks.manifest import NOWHERE, Origin, describe_run
from mari_cli.tracking import Tracker, open_tracker

if TYPE_CHECKING:  # a log's numbers are recorded without torch
    from mari_cli.metrics.distance import Entered
    from mari_cli.models.device import Compute
    from mari_cli.train.loop import Outcome


@dataclass
class RunRecord:
    run: Run
    config: RunConfig
    origin: Origin
    tracker: Tracker
    started: float
    places: dict[str, str] = field(default_factory=dict)
    """By role, where a model that it was compared with lies: for an audit."""
    quiet: bool = False
    """Whether the notes are not printed: the caller prints those of many runs together."""
    told: set[str] = field(default_factory=set)
    """Notes that were printed already."""

    def set_beside(self, **models: "ModelConfig | None") -> None:
        """Note where ``models`` lie that it is compared with, by role."""
        self.places |= {role: model.path for role, model in models.items() if model and model.path}

    def tell(self, notes: Sequence[str]) -> None:
        """Print each note once, on rank 0."""
        if self.run.writes and not self.quiet:
            for note in notes:
                if note not in self.told:
                    say(f"note: {note}")
            self.told.update(notes)

    def log(self, record: Mapping[str, Any]) -> None:
        """Write one line of metrics.jsonl. The tracker gets the same numbers under the same names; the
        numbers of a training step have the prefix `train/` there."""
        training = record["kind"] == "train"
        named = {name if training else logged_as(name): value for name, value in record.items()}
        self.run.append_metrics(named)
        values = {
            f"train/{name}" if training else name: value
            for name, value in named.items()
            if name not in ("step", "kind")
        }
        self.tracker.log(values, step=record["step"])

    def finish(
        self,
        *,
        name: str,
        models: Mapping[str, Examined],
        notes: Sequence[str],
        loss: str | None = None,
        examples: Sequence[Mapping[str, Any]] = (),
        outcome: "Outcome | None" = None,
        compute: "Compute | None" = None,
        entered: "Entered | None" = None,
        audit: Sequence[Mapping[str, Any]] | None = None,
        requests: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write items and examples, the report and, last of all, the result; returns it. Notes are printed
        too, so that nobody must open a file to learn what a table lacks. ``entered``: the metrics that the
        distance to gold is made of. ``audit``: the rows of a robustness card. ``requests``: the matrix
        of a run of several requests."""
        if not self.run.writes:
            return {}
        self.tell(notes)
        rows = [
            {"model": role} | row
            for role, found in models.items()
            for row in [*found.measured.items, *found.asked]
        ]
        self.run.write_text("items.jsonl", json_files.json_lines(rows))
        self.run.write_json("examples.json", list(examples))
        about = self.run.about()
        training = None
        if outcome:
            assert compute is not None
            training = {
                "steps": outcome.steps,
                "kept_step": outcome.kept_step,
                "stopped_by": outcome.stopped_by,
                "tokens": outcome.tokens,
                "skipped_steps": outcome.skipped_steps,
                "precision": compute.precision,
                "precision_reason": compute.reason,
                "device": str(compute.device),
                **outcome.way,
            }
        result = {
            "schema_version": SCHEMA_VERSION,
            "task": self.config.task,
            "name": name,
            "loss": loss,
            "command": about["command"],
            "created": about["created"],
            "seconds": round(time.monotonic() - self.started, 1),
            "models": {
                role: {"metrics": as_json(found.measured.metrics), "hash": found.weights}
                for role, found in models.items()
            },
            "training": training,
            "distance_to_gold": entered
            and {"forget": list(entered.forget), "kept": list(entered.kept), "left_out": entered.left_out},
            "notes": list(notes),
        }
        result |= {} if audit is None else {"audit": list(audit)}
        result |= {} if requests is None else {"requests": dict(requests)}
        report = self.run.path / "report.html"
        read = read_run(self.run.path, result=result)
        from mari_cli.report.page import render, write_report  # with matplotlib, slow to load

        write_report(report, render([read], title=f"mari {self.config.task}: {name}"))
        if (self.run.path / CHECKPOINT).is_dir():
            self.run.write_text(f"{CHECKPOINT}/{CARD}", model_card(read))
        final = models.get("unlearned") or models.get("model")
        assert final
        self.tracker.summary(
            {logged_as(name): estimate.value for name, estimate in final.measured.metrics.items()}
        )
        measured = [found.measured.metrics for found in models.values()]
        table = [
            [name, *(metrics[name].value if name in metrics else None for metrics in measured)]
            for name in dict.fromkeys(name for metrics in measured for name in metrics)
        ]
        self.tracker.table("results", ["metric", *models], table)
        if audit is not None:
            self._track_card(audit)
        self.tracker.artifact(report, name="report", kind="report")
        key = self.config.request.key
        about = describe_run(self.run.path, result, self.config, self.origin, self.places)
        self.run.finish(result, about, place(key) if key else None)
        return result

    def _track_card(self, audit: Sequence[Mapping[str, Any]]) -> None:
        """The robustness card in the tracker: a table, and each value of the model that was attacked."""
        roles = list(dict.fromkeys(role for row in audit for role in row["models"]))
        lines = []
        for row in audit:
            values = {role: found["value"] for role, found in row["models"].items()}
            n = next(found["n"] for found in row["models"].values())
            lines.append([row["attack"], row["case"], *map(values.get, roles), n, row["verdict"]])
            own = next(values[role] for role in ("unlearned", "model") if role in values)
            self.tracker.summary({f"audit/{row['attack']}/{row['case']}": own})
        self.tracker.table("audit", ["attack", "case", *roles, "n", "verdict"], lines)


@contextmanager
def open_run(config: RunConfig, options: RunOptions, inputs: Inputs) -> Iterator[Run]:
    """The run's directory, made or found, and locked until the end of the block.

    Nothing is changed where resuming is refused. The directory of a new run that is refused before its first
    step is removed.
    """
    out = Path(config.out)
    if options.resume:
        run = Run.unfinished(out)
    else:
        run = Run.create(
            out, to_yaml(config), command=options.command, task=config.task, inputs=asdict(inputs)
        )
    with run.held():
        if options.resume:
            require_same(run, inputs)
            run = Run.resume(out)
        try:
            yield run
        except (UserError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in atomic.FULL:
                raise
            told = error if isinstance(error, UserError) else atomic.CannotWrite(error.filename or out, error)
            # a run of several requests has a run in it for each of them
            begun = (out / METRICS).exists() or any(out.glob(f"*/{RUN}"))
            if not (options.resume or begun):
                atomic.remove(out)
            elif isinstance(told, atomic.CannotWrite):
                told.hint = f"{told.hint}; then `mari {config.task} --resume {shell_path(out)}` goes on"
            raise told from error


@contextmanager
def begin_record(
    run: Run,
    config: RunConfig,
    *,
    environment: Mapping[str, Any],
    data: Mapping[str, Any],
    origin: Origin = NOWHERE,
    said: Sequence[str] = (),
    quiet: bool = False,
) -> Iterator[RunRecord]:
    """Record ``run``, from its first file to its tracker's exit code. ``origin``: what it began with;
    ``said``: lines to print about the run, unless ``quiet``."""
    started = time.monotonic()
    run.write_json("environment.json", {**environment, "seed": config.seed})
    run.write_json("data.json", data)
    tracker = Tracker()
    if run.writes:
        tracker = open_tracker(
            config.tracker, run_dir=run.path, run_config=to_plain(config), name=run.path.name
        )
    for line in () if quiet else (f"run: {run.path}", *said, tracker.note):
        say(line)
    try:
        yield RunRecord(run, config, origin, tracker, started, quiet=quiet)
    finally:
        tracker.finish(0 if sys.exc_info()[0] is None else 1)
