"""TOFU's numbers from an evaluation that others have run: their log in, the rows of `tofu_numbers` out.

Two kinds are read. TOFU's own (locuslab/tofu): `eval_log_aggregated.json`, or the four files that it joins,
each of which may also stand alone. OpenUnlearning's `TOFU_EVAL.json`: for each of its metrics the
`value_by_index`. What is taken are mean token losses and ROUGE recalls by item, and every mean over items is
taken here. Items are numbers that need no order, start or end. Where a log holds texts, its ROUGE-L recalls
are computed again, and where it holds means of its own, they are compared; what differs becomes a note.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.generation import verbatim_rouge_l
from mari_cli.suites.suite import Row
from mari_cli.suites.tofu_numbers import OFFERED, SETS, of_losses

AGGREGATED, OPEN_UNLEARNING = "eval_log_aggregated.json", "TOFU_EVAL.json"
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
"""What TOFU calls the columns that are read."""
PREFIXES = {"forget": "forget", "retain": "retain", "authors": "ra", "facts": "wf"}
"""What OpenUnlearning's metrics of a set begin with."""
LOSSES = ("answer_nll", "paraphrase_nll", "wrong_nlls")
"""Columns without which a set has no numbers."""

_SAME = 1e-6
"""Two figures closer than this are one figure, rounded."""
_LOGS = f"`{AGGREGATED}` or `{OPEN_UNLEARNING}`"
_WHOLE = "give the log as the evaluation wrote it, or evaluate the model again"


@dataclass(frozen=True)
class Log:
    rows: list[Row]
    notes: list[str]
    said: dict[str, float]
    """Means that the log itself gives, under our names."""

    def disagreements(self, metrics: Mapping[str, Estimate]) -> list[str]:
        """A sentence for each of the log's own means that its items do not bear out."""
        return [
            f"the log says {name} = {said:.6g}, where its items give {metrics[name].value:.6g}"
            for name, said in self.said.items()
            if name in metrics and abs(said - metrics[name].value) > _SAME
        ]


def read_log(path: Path) -> Log:
    """Every row of the log at ``path``, a file or a folder with it; a UserError says what is wrong."""
    if path.is_dir():
        return _read_folder(path)
    content = _json(path)
    if content.keys() & FILES.values():
        return _read_tofu(content, path)
    if any(isinstance(value, dict) and "value_by_index" in value for value in content.values()):
        return _read_open_unlearning(content, path)
    if TOFU_NAMES["answer_nll"] in content:
        if path.name not in FILES.values():
            raise UserError(
                f"`{path}` is the log of one set, and its name does not say of which",
                f"call it as TOFU does: {', '.join(f'`{file}`' for file in FILES.values())}",
            )
        return _read_tofu({path.name: content}, path)
    if content and all(isinstance(value, int | float) for value in content.values()):
        raise UserError(
            f"`{path}` is a summary, without the values by item that the numbers are computed from",
            f"give the log that lies beside it: {_LOGS}",
        )
    raise UserError(f"`{path}` is no log of a TOFU evaluation", f"give {_LOGS}")


def _read_folder(path: Path) -> Log:
    for name in (AGGREGATED, OPEN_UNLEARNING):
        if (path / name).is_file():
            return read_log(path / name)
    files = {file: _json(path / file) for file in FILES.values() if (path / file).is_file()}
    if not files:
        raise UserError(f"there is no log of a TOFU evaluation in `{path}`", f"give {_LOGS}")
    return _read_tofu(files, path)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_each_once)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read `{path}`: {reason}", f"give {_LOGS}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"`{path}` is not JSON: {error}", _WHOLE) from error
    if not isinstance(content, dict):
        raise UserError(f"`{path}` is no log of a TOFU evaluation", f"give {_LOGS}")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in found if names.count(name) > 1)}` is there twice")
    return found


# -- the two kinds -------------------------------------------------------------------------------------------

Found = Mapping[str, tuple[str, Any]]
"""Of one set, our name of a column to its name in the log and its values there, None where there are none."""


def _read_tofu(content: Mapping[str, Any], path: Path) -> Log:
    log = Log([], [], {})
    for name, file in FILES.items():
        if file in content:
            where = f"`{path}`" if path.name == file else f"`{file}` in `{path}`"
            columns = content[file] if isinstance(content[file], dict) else {}
            found = {ours: (theirs, columns.get(theirs)) for ours, theirs in TOFU_NAMES.items()}
            _add(log, name, where, found)
    return log


def _read_open_unlearning(content: Mapping[str, Any], path: Path) -> Log:
    log = Log([], [], {})
    read = set(_their_means())
    for name, prefix in PREFIXES.items():
        answer, rouge = f"{prefix}_Q_A_Prob", f"{prefix}_Q_A_ROUGE"
        paraphrase = answer if name in OFFERED else f"{prefix}_Q_A_PARA_Prob"
        wrong = f"{prefix}_Q_A_PERT_Prob"
        read |= {answer, paraphrase, wrong, rouge}
        lacking = [metric for metric in (answer, paraphrase, wrong) if metric not in content]
        if lacking and name != "forget":  # what was not asked for was not measured
            log.notes.append(f"the {SETS[name]} are left out: the log has no `{lacking[0]}`")
            continue
        found = {
            "answer_nll": _field(content, answer, "avg_loss"),
            "paraphrase_nll": _field(content, paraphrase, "avg_loss"),
            "wrong_nlls": _field(content, wrong, "avg_loss"),
            "rouge_l_recall": _field(content, rouge, "rougeL_recall"),
            "rouge_1_recall": _field(content, rouge, "rouge1_recall"),
            "texts": _texts(content, rouge),
        }
        _add(log, name, f"`{path}`", found)
    for theirs, ours in _their_means().items():
        entry = content.get(theirs)
        mean = entry.get("agg_value") if isinstance(entry, dict) else None
        if isinstance(mean, int | float):
            log.said[ours] = float(mean)
    if left := sorted(content.keys() - read):
        log.notes.append(f"not taken from the log: {', '.join(left)}")
    return log


def _their_means() -> dict[str, str]:
    """OpenUnlearning's names of the means that ours should equal, to our names."""
    means = {"forget_quality": "tofu/forget_quality", "model_utility": "tofu/model_utility"}
    for name, prefix in PREFIXES.items():
        probability = "Q_A_Prob_normalised" if name in OFFERED else "Q_A_Prob"
        means |= {
            f"{prefix}_{probability}": f"tofu/{name}/probability",
            f"{prefix}_Q_A_ROUGE": f"tofu/{name}/rouge_l_recall",
            f"{prefix}_Truth_Ratio": f"tofu/{name}/truth_ratio",
            f"{prefix}_truth_ratio": f"tofu/{name}/truth_ratio",
        }
    return means


def _by_index(content: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    entry = content.get(metric)
    values = entry.get("value_by_index") if isinstance(entry, dict) else None
    return values if isinstance(values, dict) else None


def _field(content: Mapping[str, Any], metric: str, name: str) -> tuple[str, Any]:
    values = _by_index(content, metric)
    if values is not None:
        values = {i: value.get(name) if isinstance(value, dict) else None for i, value in values.items()}
    return f"{metric} {name}", values


def _texts(content: Mapping[str, Any], metric: str) -> tuple[str, Any]:
    """As TOFU has them: [question, what was said, true answer]; None where there are none."""
    names = ("input", "generation", "ground_truth")
    values = _by_index(content, metric) or {}
    texts = {i: [v.get(name) for name in names] for i, v in values.items() if isinstance(v, dict)}
    return f"{metric} texts", None if any(None in three for three in texts.values()) else texts or None


# -- columns to rows -----------------------------------------------------------------------------------------


def _add(log: Log, name: str, where: str, found: Found) -> None:
    """Check the columns of one set against each other, and add their rows and what is to be said of them."""
    for ours in LOSSES:
        if found[ours][1] is None:
            raise UserError(
                f"{where}: the {SETS[name]} have no `{found[ours][0]}`",
                "evaluate the model again with it: their numbers need the losses of answers, paraphrases and "
                "wrong answers",
            )
    columns = {
        ours: _column(values, _KINDS[ours], f"{where}: `{theirs}`")
        for ours, (theirs, values) in found.items()
        if values is not None
    }
    items = columns["answer_nll"].keys()
    for ours, column in columns.items():
        if apart := sorted(items ^ column.keys()):
            raise UserError(
                f"{where}: `{found['answer_nll'][0]}` holds {len(items)} items and `{found[ours][0]}` "
                f"{len(column)}, and item {apart[0]} is not in both",
                _WHOLE,
            )
    texts = columns.pop("texts", None)
    if texts and "rouge_l_recall" in columns:
        log.notes.extend(_compared(name, columns["rouge_l_recall"], texts))
    kept = columns.keys() - set(LOSSES)
    for item in sorted(items):
        row: Row = {"set": name, "item": item}
        if texts:
            question, _, truth = texts[item]
            row["key"] = Record(prompt=question, text=truth).key[:16]
        row |= of_losses(name, *(columns[ours][item] for ours in LOSSES))
        log.rows.append(row | {ours: columns[ours][item] for ours in sorted(kept)})


def _compared(name: str, logged: Mapping[int, float], texts: Mapping[int, list[str]]) -> list[str]:
    apart = [abs(verbatim_rouge_l(said, truth) - logged[i]) for i, (_, said, truth) in texts.items()]
    differing = [gap for gap in apart if gap > _SAME]
    if not differing:
        return []
    return [
        f"the ROUGE-L recall of {len(differing)} of {len(apart)} {SETS[name]} is not that of their texts in "
        f"the log (up to {max(differing):.3f} apart); the logged one is used"
    ]


def _column(values: Any, kind: "Kind", where: str) -> dict[int, Any]:
    """Values by item; a list of answers' losses may hold another number for each item."""
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where} holds no values by item", _WHOLE)
    column = {}
    for key, value in values.items():
        if not key.isdecimal():
            raise UserError(f"{where}: `{key}` is no item number", _WHOLE)
        if int(key) in column:
            raise UserError(f"{where}: item {int(key)} is there twice", _WHOLE)
        if not kind.holds(value):
            raise UserError(f"{where}: item {key} is {json.dumps(value)[:60]}, not {kind.words}", kind.hint)
        column[int(key)] = [value] if kind is _LOSSES and not isinstance(value, list) else value
    return column


@dataclass(frozen=True)
class Kind:
    """What a value of a column must be."""

    words: str
    holds: Callable[[Any], bool]
    hint: str = _WHOLE


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _loss(value: Any) -> bool:
    return _number(value) and value > -_SAME


_COLLAPSED = "a model whose losses are not numbers has no truth ratio: evaluate it again in float32"
_LOSS = Kind("a loss in nats", _loss, _COLLAPSED)
_LOSSES = Kind(
    "losses of wrong answers in nats",
    lambda value: _loss(value) or (isinstance(value, list) and bool(value) and all(map(_loss, value))),
    _COLLAPSED,
)
_RECALL = Kind("a recall in [0, 1]", lambda value: _number(value) and 0 <= value <= 1)
_KINDS = {
    "answer_nll": _LOSS,
    "paraphrase_nll": _LOSS,
    "wrong_nlls": _LOSSES,
    "tokens": Kind("a number of tokens", lambda value: isinstance(value, int) and value > 0),
    "rouge_l_recall": _RECALL,
    "rouge_1_recall": _RECALL,
    "texts": Kind(
        "question, generated answer and true answer",
        lambda value: isinstance(value, list) and len(value) == 3 and all(isinstance(t, str) for t in value),
    ),
}
