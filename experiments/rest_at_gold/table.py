"""Runs as rows of a Markdown table: half-way and at the end, beside target and gold.

python experiments/rest_at_gold/table.py RUN…
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
    "distance to gold, forget side": "distance_to_gold/forget_side",
    "kept side": "distance_to_gold/kept_side",
}


def with_interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line.get("kind") == "eval"}


def seen(look: dict[str, float], key: str) -> str:
    """A number of an evaluation, where a log sorts metrics into groups."""
    return next((f"{value:.3f}" for name, value in look.items() if f"/{name}".endswith(f"/{key}")), "")


def main(runs: list[Path]) -> None:
    print("| run | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for run in runs:
        models = json.loads((run / "result.json").read_text())["models"]
        rows = {role: models[role]["metrics"] for role in ("target", "gold", "unlearned") if role in models}
        looks = evaluations(run)
        half = looks.get(max(looks) // 2, {})
        at_half = [seen(half, key) for key in COLUMNS.values()]
        for role, metrics in rows.items():
            cells = [with_interval(metrics[key]) if key in metrics else "" for key in COLUMNS.values()]
            if role == "unlearned":
                print(f"| {run.name}, step {max(looks) // 2} | " + " | ".join(at_half) + " |")
                role = f"step {max(looks)}"
            print(f"| {run.name}, {role} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
