"""Measure a model as it is, beside a gold model where there is one."""

from typing import Any

from mari_cli.config import EvaluateRun
from mari_cli.options import RunOptions
from mari_cli.tasks.assessment import Assessment
from mari_cli.tasks.preflight import check_run
from mari_cli.tasks.run_record import record_run


def evaluate_model(config: EvaluateRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    flight, lm = check_run(config, options)
    with record_run(flight) as record:
        assessment = Assessment.begin(flight)
        assessment.take("model", lm)
        if flight.gold:
            del lm
            lm = flight.load(flight.gold)
            assessment.take("gold", lm)
        return assessment.finish(record, lm, name=config.model.name, notes=flight.notes)
