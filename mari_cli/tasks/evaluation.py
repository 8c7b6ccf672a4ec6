"""Measure a model as it is, beside the model before unlearning and a gold model where there are such."""

from typing import Any

from mari_cli.config import EvaluateRun
from mari_cli.options import RunOptions
from mari_cli.tasks.assessment import Assessment
from mari_cli.tasks.preflight import check_run
from mari_cli.tasks.run_record import record_run


def evaluate_model(config: EvaluateRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    flight, lm = check_run(config, options)
    own = "unlearned" if flight.before else "model"
    beside = {"target": flight.before, "gold": flight.gold}
    with record_run(flight) as record:
        record.places |= {role: model.path for role, model in beside.items() if model and model.path}
        assessment = Assessment.begin(flight)
        assessment.take(own, lm)
        for role, model in beside.items():
            if model:
                del lm  # one model at a time is in memory
                lm = flight.load(model)
                assessment.take(role, lm)
        return assessment.finish(record, lm, name=config.model.name, notes=flight.notes)
