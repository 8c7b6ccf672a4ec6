"""Parts of TOFU that share no author: settings are chosen on the first, figures are of the others.

python experiments/study/tofu_parts.py FOLDER [PART…]     # 1 2 3

It reads $MARI_SHARED/data/tofu/full.json (else ../shared). Part k begins at question 300 (k - 1), 20 for each
author: 60 to forget, 60 that no model sees, 150 to retain.
"""

import os
import sys
from pathlib import Path

FORGET, HOLDOUT, RETAIN = 60, 60, 150
STRIDE = 300
"""Questions from the beginning of one part to that of the next: 15 authors."""


def main(folder: Path, parts: list[int]) -> None:
    tofu = Path(os.environ.get("MARI_SHARED", "../shared")) / "data/tofu/full.json"
    if not tofu.is_file():
        sys.exit(f"needs {tofu}: the 4,000 questions of TOFU, a JSON object a line")
    lines = tofu.read_text(encoding="utf-8").splitlines()
    for part in parts:
        where, start = folder / str(part), STRIDE * (part - 1)
        where.mkdir(parents=True, exist_ok=True)
        for name, count in (("forget", FORGET), ("holdout", HOLDOUT), ("retain", RETAIN)):
            (where / f"{name}.json").write_text(
                "\n".join(lines[start : start + count]) + "\n", encoding="utf-8"
            )
            start += count
        print(f"{where}: questions {STRIDE * (part - 1)} to {start}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]] or [1, 2, 3])
