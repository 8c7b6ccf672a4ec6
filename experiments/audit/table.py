"""The table of several audits of one target, in Markdown: `python experiments/audit/table.py NAME=AUDIT…`.

Before and gold are those of the first audit. Of relearning, each audit shows the learning rate at which most
came back.
"""

import json
import sys
from pathlib import Path
from typing import Any


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['value']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def table(audits: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Lines of Markdown: a row for each case, a column for each audit by its name."""
    lines = [
        f"| attack | case | n | before | {' | '.join(audits)} | gold |",
        "|---" * (5 + len(audits)) + "|",
    ]
    for rows in zip(*audits.values(), strict=True):
        models = rows[0]["models"]
        now = [f"{cell(row['models']['model'])}, *{row['verdict']}*" for row in rows]
        what = f"{rows[0]['attack']} | {rows[0]['case']}".replace("_", " ")
        n = models["model"]["n"]
        lines.append(
            f"| {what} | {n} | {cell(models['target'])} | {' | '.join(now)} | {cell(models.get('gold'))} |"
        )
    return lines


if __name__ == "__main__":
    named = dict(word.split("=", 1) for word in sys.argv[1:])
    audits = {name: json.loads((Path(at) / "result.json").read_text())["audit"] for name, at in named.items()}
    print("\n".join(table(audits)))
