"""`mari evaluate --from-log`: TOFU's numbers from an evaluation that others have run, as a run of its own.

No model is loaded; what stands for the hash of its weights is that of the values in its log.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mari_cli import runs
from mari_cli.config import EvaluateRun, TofuSuite, to_yaml
from mari_cli.errors import UserError
from mari_cli.metrics.statistics import How
from mari_cli.suites.measured import Measured
from mari_cli.suites.tofu_data import read_questions
from mari_cli.suites.tofu_logs import read_log, require_same_items, unlike_tofu
from mari_cli.suites.tofu_numbers import summarise
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.record import recorded
from mari_cli.tracking import check_tracker


def from_log(config: EvaluateRun, *, command: Sequence[str]) -> dict[str, Any]:
    """Run it and return the result (result.json). A log that cannot be read is refused before anything is
    written."""
    assert config.from_log is not None
    runs.refuse_existing(Path(config.out))
    check_tracker(config.tracker)
    paths = {"model": config.from_log} | ({"gold": config.gold_log} if config.gold_log else {})
    suite = _data(config)
    questions = read_questions(suite) if suite else None
    logs = {role: read_log(Path(path).expanduser()) for role, path in paths.items()}
    how = How(config.metrics.bootstrap, config.metrics.confidence, config.seed)
    notes: dict[str, None] = {}
    models = {}
    for role, log in logs.items():
        if suite and questions:
            require_same_items(log, paths[role], questions, suite.path)
        summary = summarise(log.rows, logs["gold"].rows if "gold" in logs else None, how)
        unlike = [] if questions else unlike_tofu(log)
        told = [*log.notes, *unlike, *summary.notes, *log.disagreements(summary.metrics)]
        notes |= dict.fromkeys(f"{role}: {note}" for note in told)
        rows = [{"suite": "tofu"} | row for row in log.rows]
        models[role] = Examined(Measured(summary.metrics, [], []), rows, runs.content_hash(log.rows))
    data = {
        role: {"path": path, "records": len(logs[role].rows), "sha256": models[role].weights}
        for role, path in paths.items()
    }
    run = runs.Run.create(Path(config.out), to_yaml(config), command=command, task="evaluate")
    environment = runs.environment() | {"processes": 1}
    with recorded(run, config, environment=environment, data=data) as record:
        return record.finish(
            task="evaluate",
            name=config.model.name,
            loss=None,
            models=models,
            examples=[],
            outcome=None,
            compute=None,
            notes=list(notes),
        )


def _data(config: EvaluateRun) -> TofuSuite | None:
    """TOFU's data, where it is named for comparing; without a holdout, of which TOFU's logs know nothing."""
    if config.suite.kind == "corpora":
        return None
    if not isinstance(config.suite, TofuSuite):
        raise UserError(
            f"`from_log` is about TOFU's logs, and `suite={config.suite.name}` is not TOFU",
            "`suite=tofu suite.path=DIR` compares the logs with their data; without `suite` they are taken "
            "as they are",
        )
    return replace(config.suite, holdout=None)
