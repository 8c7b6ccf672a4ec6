"""`mari evaluate`: measure a model, or read the log of an evaluation, for which torch is not loaded."""

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
    from mari_cli.tasks.evaluation import evaluate_model

    return evaluate_model(config, options)
