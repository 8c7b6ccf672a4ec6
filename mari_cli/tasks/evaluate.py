"""`mari evaluate`: measure a model as it is, beside the model before unlearning and gold where there are any,
or read the log of an evaluation, for which torch is not loaded."""

from typing import Any

from mari_cli.config import EvaluateRun
from mari_cli.errors import UserError
from mari_cli.options import RunOptions
from mari_cli.tasks.worker import processes


def evaluate(config: EvaluateRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    if config.from_log is not None:
        if processes() > 1:
            raise UserError("`from_log` asks no model, and several processes are here", "one is enough")
        from mari_cli.tasks.from_log import evaluate_log

        return evaluate_log(config, options)
    from mari_cli.tasks.assessment import Assessment
    from mari_cli.tasks.preflight import check_run
    from mari_cli.tasks.run_record import record_run

    flight, lm = check_run(config, options)
    own = "unlearned" if flight.before else "model"
    beside = {"target": flight.before, "gold": flight.gold}
    with record_run(flight) as record:
        record.set_beside(**beside)
        assessment = Assessment.begin(flight)
        assessment.take(own, lm)
        for role, model in beside.items():
            if model:
                del lm  # one model at a time is in memory
                lm = flight.load(model)
                assessment.take(role, lm)
        return assessment.finish(record, lm, name=config.model.name, notes=flight.notes)
