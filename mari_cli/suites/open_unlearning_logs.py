"""OpenUnlearning's log of a TOFU evaluation (`TOFU_EVAL.json`, locuslab/open-unlearning), as rows of
`tofu_numbers`: the `value_by_index` of each of its metrics.

A log has only the metrics that its evaluation asked for. Most published logs have the losses of paraphrases
and of wrong answers, which is all that a truth ratio needs, and no losses of answers; logs of retain models
often have `forget_truth_ratio` alone. Metrics that OpenUnlearning defines differently have their own names
here: truth ratio, forget quality and model utility with 1e-10 added to p(paraphrase), extraction strength and
exact memorization without the EOS. OpenUnlearning's membership scores have the opposite sign: higher where an
item looks less trained on.
"""

import math
from collections.abc import Mapping, Sequence
from sys import float_info
from typing import Any

from mari_cli.errors import UserError, counted
from mari_cli.metrics import membership
from mari_cli.suites.log_columns import (
    SCORE,
    SHARE,
    Found,
    Log,
    add,
    by_item,
    column_of,
    item_number,
    require,
)
from mari_cli.suites.suite import Row
from mari_cli.suites.tofu_metrics import HOLDOUT, MEMBERSHIP, METRICS, OF_TOKENS, OFFERED, PREFIXES
from mari_cli.suites.tofu_numbers import SETS, THEIRS, with_their_ratio

TRUTH = ("paraphrase_nll", "wrong_nlls")
"""Columns that a truth ratio needs."""
TOKENS = [metric.name for metric in OF_TOKENS]
"""Metrics of the tokens of forget answers."""
ATTACKS = {attack: f"mia_{attack}" for attack in membership.ATTACKS}
PRIVLEAK = "privleak"
"""Our names of attacks to OpenUnlearning's metrics."""
OF_MUSE = ("knowmem", "verbmem")
"""Parts of names that only MUSE's metrics have."""


def is_open_unlearning(content: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) and "value_by_index" in value for value in content.values())


def read_open_unlearning(content: Mapping[str, Any], where: str) -> Log:
    """Every row of the log, which error messages call ``where``. Raises UserError."""
    log = Log()
    means = {theirs: metric.name for metric in METRICS for theirs in metric.elsewhere}
    read = means.keys() - {*TOKENS, *ATTACKS.values(), PRIVLEAK}  # these count only if items have them
    for name, prefix in PREFIXES.items():
        answer, rouge = f"{prefix}_Q_A_Prob", f"{prefix}_Q_A_ROUGE"
        paraphrase = answer if name in OFFERED else f"{prefix}_Q_A_PARA_Prob"
        wrong = f"{prefix}_Q_A_PERT_Prob"
        read |= {answer, paraphrase, wrong, rouge}
        found: Found = {
            "answer_nll": _field(content, answer, "avg_loss"),
            "paraphrase_nll": _field(content, paraphrase, "avg_loss"),
            "wrong_nlls": _losses_of_wrong(content, wrong),
            "rouge_l_recall": _field(content, rouge, "rougeL_recall"),
            "rouge_1_recall": _field(content, rouge, "rouge1_recall"),
            "texts": _texts(content, rouge),
        }
        _add_set(log, name, where, found, _ratios(content, prefix))
    if not log.rows:
        raise _no_metric_of_tofu(content, where)
    read |= _add_tokens(log, content, where) | _add_membership(log, content, where)
    for theirs, ours in means.items():
        entry = content.get(theirs)
        mean = entry.get("agg_value") if isinstance(entry, dict) else None
        if isinstance(mean, int | float) and SCORE.holds(mean):
            log.said[ours] = float(mean)
    if left := sorted(content.keys() - read):
        log.notes.append(f"not taken from the log: {', '.join(left)}")
    return log


def _add_set(log: Log, name: str, where: str, found: Found, ratios: tuple[str, Any]) -> None:
    """Add one set of the log. A note says which metrics are missing, because they were not asked for.

    Truth ratios are computed from losses. The log's own ratios have 1e-10 added to p(paraphrase); they are
    used only where there are no losses, under their own name.
    """
    there = {ours for ours, (_, values) in found.items() if values is not None}
    lacking = [ours for ours in TRUTH if ours not in there]
    alone = bool(lacking) and ratios[1] is not None
    if not there & {"answer_nll", *TRUTH, "rouge_l_recall"} and not alone:
        log.notes.append(f"the {SETS[name]} are left out: the log has no `{_metric(found['answer_nll'])}`")
        return
    if len(lacking) == 1 and name == "forget" and not alone:  # half a ratio: the log is broken
        require(name, where, found, TRUTH)
    rows = add(log, name, where, {**found, "ratio": ratios} if alone else found)
    for row in rows:
        # a collapsed model's ratio may be below the smallest float; the smallest float keeps the order
        row |= {THEIRS: math.log(max(row.pop("ratio"), float_info.min))} if alone else {}
        row |= with_their_ratio(row)
    if alone:
        log.notes.append(
            f"the truth ratios of the {SETS[name]} are those that the log gives (`{_metric(ratios)}`), with "
            "1e-10 beside p(paraphrase): it has no losses to compute them from again, so what is made of "
            "them has `_open_unlearning` in its name"
        )
    elif lacking:
        log.notes.append(
            f"the {SETS[name]} have no truth ratio: the log has no `{_metric(found[lacking[0]])}`"
        )
    elif ratios[1] is not None:
        log.notes.extend(_beside_losses(name, rows, ratios))


def _beside_losses(name: str, rows: Sequence[Row], ratios: tuple[str, Any]) -> list[str]:
    """A note where the log's ratios are not those of its losses; the latter are used."""
    logged = {item_number(key): value for key, value in ratios[1].items()}
    if logged.keys() != {row["item"] for row in rows}:
        return [
            f"`{_metric(ratios)}` of the log holds {counted(len(logged), 'item')}, and its losses "
            f"{len(rows)}: the truth ratios are made of the losses"
        ]
    pairs = [(math.exp(min(row[THEIRS], 700.0)), logged[row["item"]]) for row in rows]
    differing = sum(
        not (SCORE.holds(theirs) and math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-9))
        for ours, theirs in pairs
    )
    if not differing:
        return []
    return [
        f"`{_metric(ratios)}` of {differing} of {len(rows)} {SETS[name]} is not that of their losses in "
        "the log; the truth ratios are made of the losses"
    ]


def _metric(column: tuple[str, Any]) -> str:
    """The log's metric that ``column`` comes from."""
    return column[0].split()[0]


def of_muse(content: Mapping[str, Any], where: str) -> UserError | None:
    """The error for a log or summary of MUSE; None for other logs."""
    found = [metric for metric in content if any(word in metric for word in OF_MUSE)]
    if not found:
        return None
    return UserError(
        f"{where} is of MUSE, not of TOFU: it holds `{found[0]}`",
        "`--from-log` reads logs of TOFU; `mari evaluate MODEL suite=muse_news gold=GOLD` measures MUSE",
    )


def _no_metric_of_tofu(content: Mapping[str, Any], where: str) -> UserError:
    found = ", ".join(f"`{metric[:60]}`" for metric in list(content)[:3])
    return of_muse(content, where) or UserError(
        f"{where} holds none of TOFU's metrics by item; it begins with {found}",
        "forget quality needs `forget_Q_A_PARA_Prob` and `forget_Q_A_PERT_Prob` with their `value_by_index`: "
        "give OpenUnlearning's `TOFU_EVAL.json`",
    )


def _add_tokens(log: Log, content: Mapping[str, Any], where: str) -> set[str]:
    """Add scores of the forget answers' tokens; returns the metrics that were used."""
    taken = set()
    rows = {row["item"]: row for row in log.rows if row["set"] == "forget"}
    for metric in TOKENS:
        theirs, values = _field(content, metric, "score")
        if values is None or None in values.values():  # without the EOS such an answer is empty
            continue
        column = column_of(values, SHARE, f"{where}: `{theirs}`")
        if column.keys() == rows.keys():
            taken.add(metric)
            for item, share in column.items():
                rows[item][f"{metric}_open_unlearning"] = share
    return taken


def _add_membership(log: Log, content: Mapping[str, Any], where: str) -> set[str]:
    """Add every attack's scores of the forget items and of a holdout, which is a set of its own; returns the
    metrics that were used."""
    taken = set()
    rows: dict[str, dict[int, Row]] = {
        "forget": {row["item"]: row for row in log.rows if row["set"] == "forget"},
        HOLDOUT: {},
    }
    for attack, metric in ATTACKS.items():
        entry = content.get(metric)
        sides = {name: _field(entry, name, "score") for name in MEMBERSHIP} if isinstance(entry, dict) else {}
        if not sides or any(values is None for _, values in sides.values()):
            continue
        scores = {
            name: column_of(values, SCORE, f"{where}: `{metric} {theirs}`")
            for name, (theirs, values) in sides.items()
        }
        if not rows[HOLDOUT]:
            rows[HOLDOUT] = {item: {"set": HOLDOUT, "item": item} for item in sorted(scores[HOLDOUT])}
        if any(scores[name].keys() != rows[name].keys() for name in MEMBERSHIP):
            continue
        taken.add(metric)
        for name in MEMBERSHIP:
            for item, score in scores[name].items():
                row = rows[name][item]
                row |= (
                    {"answer_nll": row.get("answer_nll", score)}
                    if attack == membership.LOSS
                    else {attack: -score}
                )
    if taken:
        log.rows.extend(rows[HOLDOUT].values())
    return taken | ({PRIVLEAK} if ATTACKS[membership.MIN_K] in taken else set())


def _by_index(content: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    entry = content.get(metric)
    values = entry.get("value_by_index") if isinstance(entry, dict) else None
    return by_item(values) if isinstance(values, dict | list) else None


def _field(content: Mapping[str, Any], metric: str, name: str) -> tuple[str, Any]:
    """The field's name in the log, and its values by item; None where no item has the field."""
    values = _by_index(content, metric) or {}
    found = {i: value.get(name) if isinstance(value, dict) else None for i, value in values.items()}
    return f"{metric} {name}", found if any(value is not None for value in found.values()) else None


def _losses_of_wrong(content: Mapping[str, Any], metric: str) -> tuple[str, Any]:
    """The losses of each item's wrong answers, which a log has as one list or answer by answer."""
    name, values = _field(content, metric, "avg_loss")
    if values is not None:
        return name, values
    found = {i: _of_answers(value) for i, value in (_by_index(content, metric) or {}).items()}
    return name, found if any(value is not None for value in found.values()) else None


def _of_answers(value: Any) -> list[Any] | None:
    answers = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(answers, list) or not answers or not all(isinstance(of, dict) for of in answers):
        return None
    return [of.get("avg_loss") for of in answers]


def _ratios(content: Mapping[str, Any], prefix: str) -> tuple[str, Any]:
    """OpenUnlearning's own truth ratios of a set."""
    metrics = [f"{prefix}_truth_ratio", f"{prefix}_Truth_Ratio"]
    there = [metric for metric in metrics if metric in content]
    return _field(content, (there or metrics)[0], "score")


def _texts(content: Mapping[str, Any], metric: str) -> tuple[str, Any]:
    """[question, generated answer, true answer] by item, as in TOFU; None without texts."""
    names = ("input", "generation", "ground_truth")
    values = _by_index(content, metric) or {}
    texts = {i: [v.get(name) for name in names] for i, v in values.items() if isinstance(v, dict)}
    return f"{metric} texts", None if any(None in three for three in texts.values()) else texts or None
