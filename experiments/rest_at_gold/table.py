"""Runs as rows of a Markdown table: target and gold once for each world, each run half-way and at its end.

python experiments/rest_at_gold/table.py RUN…     # runs of one world one after another
"""

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = {
    "forget NLL": "forget/answer_nll",
    "token accuracy": "forget/token_accuracy",
    "exact match": "forget/exact_match",
    "AUC": "privacy/loss_auc",
    "retain EM": "retain/exact_match",
    "holdout NLL": "holdout/answer_nll",
    "D, forget side": "distance_to_gold/forget_side",
    "D, kept side": "distance_to_gold/kept_side",
}


def with_interval(estimate: dict[str, Any]) -> str:
    digits = 2 if abs(estimate["value"]) >= 5 else 3
    value = f"{estimate['value']:.{digits}f}"
    if estimate["low"] is None:  # too few items for one
        return value
    return f"{value} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line.get("kind") == "eval"}


def seen(look: dict[str, float], key: str) -> str:
    """A number of an evaluation, where a log sorts metrics into groups."""
    return next((f"{value:.3f}" for name, value in look.items() if f"/{name}".endswith(f"/{key}")), "")


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


def main(runs: list[Path]) -> None:
    row("run", *COLUMNS)
    row(*["---"] * (len(COLUMNS) + 1))
    world = None
    for run in runs:
        models = json.loads((run / "result.json").read_text())["models"]
        looks = evaluations(run)
        half = max(looks) // 2

        def cells(role: str, models: dict[str, Any] = models) -> list[str]:
            metrics = models[role]["metrics"]
            return [with_interval(metrics[key]) if key in metrics else "" for key in COLUMNS.values()]

        if "gold" in models and cells("gold") != world:
            world = cells("gold")
            row(f"**{run.name.partition('_')[2]}**: target", *cells("target"))
            row("gold", *world)
        if half in looks:
            row(f"{run.name}, step {half}", *(seen(looks[half], key) for key in COLUMNS.values()))
        row(f"{run.name}, step {max(looks)}", *cells("unlearned"))


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
