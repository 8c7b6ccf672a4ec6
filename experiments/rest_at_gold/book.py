"""Two texts from one book by its chapters: what a model is to learn, and what no model sees.

python experiments/rest_at_gold/book.py FOLDER     # reads $MARI_SHARED/data/books/alice.txt (else ../shared)
"""

import os
import re
import sys
from pathlib import Path

SEEN, UNSEEN = 6, 2
"""Chapters that a model is to learn, and those after them that no model sees."""


def main(folder: Path) -> None:
    book = Path(os.environ.get("MARI_SHARED", "../shared")) / "data/books/alice.txt"
    if not book.is_file():
        sys.exit(f"needs {book}: a book as plain text, its chapters headed `CHAPTER I.` and so on")
    chapters = re.split(r"(?m)^(?=CHAPTER [IVXLC]+\.)", book.read_text(encoding="utf-8"))[1:]
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"seen": chapters[:SEEN], "unseen": chapters[SEEN : SEEN + UNSEEN]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text("".join(part), encoding="utf-8")
        print(f"{folder / name}.txt: {len(part)} chapters, {sum(map(len, part))} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
