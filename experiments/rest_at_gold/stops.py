"""Where each stop rule would have ended runs that went on without one, and how far from gold that is.

python experiments/rest_at_gold/stops.py RUN…

The rules are those of `train.stop`. `true_token_gap` needs the forget data alone, `at_holdout` needs unseen
data too, and `retain_drop` (the paper's) the retain data. The last column is the evaluation whose forget loss
is nearest gold's; no rule can know it.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Look = Mapping[str, float]

GAP = 2.0
"""In nats: the value of `train.stop.true_token_gap` that README names."""
RETAIN_DROP = 0.03
"""How far retain accuracy may fall, relative: the default of `train.stop.retain_drop`."""


def looks_of(run: Path) -> list[dict[str, float]]:
    """The evaluations of ``run`` in the order of their steps, by metric: a log sorts metrics into groups."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    looks = [line for line in lines if line.get("kind") == "eval"]
    return [{name.partition("/")[2] or name: value for name, value in look.items()} for look in looks]


def rules_of(looks: list[dict[str, float]], gold: float) -> dict[str, Callable[[Look], bool]]:
    """By name, whether a rule ends the run at an evaluation; the last takes the nearest to ``gold``."""
    floor = looks[0]["retain/token_accuracy"] * (1 - RETAIN_DROP)
    nearest = min(looks[1:], key=lambda look: abs(look["forget/answer_nll"] - gold))
    return {
        f"true_token_gap={GAP:g}": lambda look: look["forget/true_token_gap"] <= GAP,
        "at_holdout": lambda look: look["forget/answer_nll"] >= look["holdout/answer_nll"],
        "retain_drop": lambda look: look["retain/token_accuracy"] < floor,
        "nearest gold": lambda look: look is nearest,
    }


def main(runs: list[Path]) -> None:
    for run in runs:
        looks = looks_of(run)
        gold = json.loads((run / "result.json").read_text())["models"]["gold"]["metrics"][
            "forget/answer_nll"
        ]["value"]
        rules = rules_of(looks, gold)
        if run == runs[0]:
            print("| run | gold's forget NLL | " + " | ".join(rules) + " |")
            print("| " + " | ".join(["---"] * (len(rules) + 2)) + " |")
        cells = []
        for ends in rules.values():
            look = next((look for look in looks[1:] if ends(look)), None)
            cells.append(
                "never" if look is None else f"{look['forget/answer_nll']:.3f} (step {look['step']})"
            )
        print(f"| {run.name} | {gold:.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
