"""TOFU's metrics from the log of an evaluation that others have run, read as rows of `tofu_numbers`.

Two formats are read. TOFU's own (locuslab/tofu) is `eval_log_aggregated.json`, or one or more of the four
files that it joins. OpenUnlearning's is `TOFU_EVAL.json` (`open_unlearning_logs`). Losses, ROUGE recalls and
other scores are read by item, and all means over items are computed here. Items are numbers in any order,
with any start and end. If a log has texts, its ROUGE-L recalls are computed again; if it has its own means,
they are compared. Differences become notes.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mari_cli.data.files import DuplicateKey, each_once
from mari_cli.errors import UserError, counted, reason_of
from mari_cli.places import place as on_disk
from mari_cli.suites.log_columns import LOSSES, WHOLE, Log, add, require
from mari_cli.suites.open_unlearning_logs import is_open_unlearning, of_muse, read_open_unlearning
from mari_cli.suites.tofu_data import Question
from mari_cli.suites.tofu_numbers import PUBLISHED, SETS, SPLITS, split_of

AGGREGATED, OPEN_UNLEARNING = "eval_log_aggregated.json", "TOFU_EVAL.json"
OF_MUSE = "MUSE_EVAL.json"
"""MUSE's log, which is refused; the names of its metrics show what it is."""
FILES = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "authors": "eval_real_author_wo_options.json",
    "facts": "eval_real_world_wo_options.json",
}
TOFU_NAMES = {
    "answer_nll": "avg_gt_loss",
    "paraphrase_nll": "avg_paraphrased_loss",
    "wrong_nlls": "average_perturb_loss",
    "tokens": "num_token_gt",
    "rouge_l_recall": "rougeL_recall",
    "rouge_1_recall": "rouge1_recall",
    "texts": "generated_text",
}
"""TOFU's names of the columns that are read."""
_LOGS = f"`{AGGREGATED}` or `{OPEN_UNLEARNING}`"


class NoLog(UserError):
    """The error for a file that is no log of a TOFU evaluation; a broken log raises UserError itself."""


@dataclass(frozen=True)
class Place:
    """The place of a log, or of a file that may be one."""

    path: Path
    named: bool
    """Whether the user named this very path; else it was found in a folder."""


def places(paths: Sequence[str]) -> list[Place]:
    """Every log that ``paths`` stand for, each once: a file, or a folder with one log, stands for itself, any
    other folder for the logs in and below it. There, each JSON file may be a log until it is read."""
    found: dict[Path, Place] = {}
    for name in paths:
        path = on_disk(name)
        here = [Place(path, named=True)]
        if path.is_dir() and not _usual(path):
            here = [Place(below, named=False) for below in _below(path)]
            if not here:
                raise NoLog(f"there is no log of a TOFU evaluation in `{path}`", f"give {_LOGS}")
        for place in here:
            found.setdefault(Path(os.path.realpath(place.path)), place)
    return list(found.values())


def _usual(folder: Path) -> bool:
    """Whether ``folder`` directly contains a log under one of the names that evaluations use."""
    return any((folder / name).is_file() for name in (AGGREGATED, OPEN_UNLEARNING, OF_MUSE, *FILES.values()))


def _below(folder: Path) -> list[Path]:
    found = []
    for directory, folders, files in os.walk(folder):
        folders.sort()
        here = Path(directory)
        found += [here] if _usual(here) else [here / file for file in sorted(files) if file.endswith(".json")]
    return found


def names_of(paths: Sequence[Path]) -> list[str]:
    """Unique names of the logs for a table: their paths without usual file names and without the common
    beginning."""
    usual = {AGGREGATED, OPEN_UNLEARNING, *FILES.values()}
    parts = [(path.parent if path.name in usual else path.with_suffix("")).parts for path in paths]
    shared = 0
    while all(len(of) > shared + 1 and of[shared] == parts[0][shared] for of in parts):
        shared += 1
    names = ["/".join(of[shared:]) or str(path) for of, path in zip(parts, paths, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({path.name})"
        for name, path in zip(names, paths, strict=True)
    ]


def read_log(path: Path) -> Log:
    """Every row of the log at ``path``, a file or a folder with it. Raises UserError."""
    if path.is_dir():
        return _read_folder(path)
    content = _json(path)
    if content.keys() & FILES.values():
        return _read_tofu(content, path)
    if is_open_unlearning(content):
        return read_open_unlearning(content, f"`{path}`")
    if TOFU_NAMES["answer_nll"] in content:
        if path.name not in FILES.values():
            raise UserError(
                f"`{path}` is the log of one set, and its name does not say of which",
                f"call it as TOFU does: {', '.join(f'`{file}`' for file in FILES.values())}",
            )
        return _read_tofu({path.name: content}, path)
    if muse := of_muse(content, f"`{path}`"):
        raise muse
    if content and all(isinstance(value, int | float) for value in content.values()):
        raise NoLog(
            f"`{path}` is a summary, without the values by item that the numbers are computed from",
            f"give the log that lies beside it: {_LOGS}",
        )
    raise NoLog(f"`{path}` is no log of a TOFU evaluation", f"give {_LOGS}")


def _read_folder(path: Path) -> Log:
    for name in (AGGREGATED, OPEN_UNLEARNING, OF_MUSE):
        if (path / name).is_file():
            return read_log(path / name)
    files = {file: _json(path / file) for file in FILES.values() if (path / file).is_file()}
    if not files:
        raise NoLog(f"there is no log of a TOFU evaluation in `{path}`", f"give {_LOGS}")
    return _read_tofu(files, path)


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # reading a pipe may never end
            raise UserError(f"cannot read `{path}`: it is no file but a pipe or a device", f"give {_LOGS}")
        content = json.loads(path.read_bytes(), object_pairs_hook=each_once)
    except OSError as error:
        raise UserError(f"cannot read `{path}`: {reason_of(error)}", f"give {_LOGS}") from error
    except DuplicateKey as error:
        raise UserError(f"`{path}` is not JSON: `{error}` is there twice", WHOLE) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"`{path}` is not JSON: {error}", WHOLE) from error
    if not isinstance(content, dict):
        raise NoLog(f"`{path}` is no log of a TOFU evaluation", f"give {_LOGS}")
    return content


def _read_tofu(content: Mapping[str, Any], path: Path) -> Log:
    log = Log()
    for name, file in FILES.items():
        if file in content:
            where = f"`{path}`" if path.name == file else f"`{file}` in `{path}`"
            columns = content[file] if isinstance(content[file], dict) else {}
            found = {ours: (theirs, columns.get(theirs)) for ours, theirs in TOFU_NAMES.items()}
            require(name, where, found, LOSSES)
            add(log, name, where, found)
    return log


# -- against the data ----------------------------------------------------------------------------------------

LENGTHS = {
    "forget": (*sorted([*SPLITS, PUBLISHED]),),
    "retain": (PUBLISHED, 400),
    "authors": (100,),
    "facts": (117,),
}
"""The numbers of questions that TOFU has in each set, or that its published logs hold (the first 300)."""

QuestionSets = Mapping[str, Sequence[Question]]
"""Questions by set."""


def unlike_tofu(log: Log) -> list[str]:
    """A note for each set whose number of items TOFU has nowhere; for logs whose data is not given."""
    found = {name: sum(row["set"] == name for row in log.rows) for name in SETS}
    return [
        f"there {'is' if count == 1 else 'are'} {counted(count, SETS[name][:-1])}, where TOFU has "
        f"{' or '.join(map(str, LENGTHS[name]))}: "
        "`suite=tofu suite.path=DIR` compares the log with its data"
        for name, count in found.items()
        if count and count not in LENGTHS[name]
    ]


def require_same_items(log: Log, path: str, questions: QuestionSets, data: str) -> None:
    """Refuse a log, at ``path``, whose items are not ``questions``, which are from ``data``: another number,
    or, if the log has texts, another order or other questions."""
    for name, words in SETS.items():
        asked = questions[name]
        count = sum(row["set"] == name for row in log.rows)
        if count and count != len(asked):
            raise UserError(
                f"`{path}` is of {counted(count, words[:-1])}, and `{data}` has {len(asked)} with these "
                "settings",
                _settings_for(name, count, len(asked)),
            )
        if name not in log.asked:
            continue
        for number, (said, question) in enumerate(zip(log.asked[name], asked, strict=True), start=1):
            if _letters(question.words) not in _letters(said):
                raise UserError(
                    f"question {number} of the {words} in `{path}` is not that of `{data}`",
                    "give the data that the log is of, in its order: `suite.path`, `suite.split`",
                )


def _settings_for(name: str, count: int, there: int) -> str:
    """A hint: the settings with ``count`` items of set ``name``, where the current ones give ``there``."""
    its, given = split_of(count), split_of(there)
    if name == "forget" and its and given and its != given:
        return f"{count} forget items are those of {its[0]}: `suite.split={its[0]}`"
    if count < there or count == PUBLISHED:
        return (
            f"`suite.items={count}` takes the first {count} of each set, as TOFU's published logs take the "
            f"first {PUBLISHED}; `suite.split` is the share of authors to be forgotten"
        )
    return "give the data that the log is of: `suite.path`, `suite.split`; `suite.items=null` takes all of it"


def _letters(text: str) -> str:
    """``text`` without what a tokenizer may change: white space and punctuation."""
    return re.sub(r"\W+", "", text).lower()
