"""TOFU's metrics from the rows of a model, whether this program asked the questions or a published log has
the answers.

A row is one question under one model. Its losses are mean token losses in nats; `log_truth_ratio` is the
logarithm of the truth ratio, with the geometric mean over the wrong answers.
"""

from collections.abc import Sequence
from math import exp
from typing import Any

import numpy as np

from mari_cli.errors import UserError
from mari_cli.metrics.arrays import Floats
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.forget_quality import forget_quality_estimates
from mari_cli.metrics.model_utility import model_utility_estimate
from mari_cli.metrics.statistics import How
from mari_cli.metrics.truth_ratio import (
    log_truth_ratio,
    log_truth_ratio_arithmetic,
    log_truth_ratio_open_unlearning,
    normalised_probability,
    truth_ratio_of_forgotten,
    truth_ratio_of_known,
)
from mari_cli.suites.attacks import attacks_in, membership, privleak
from mari_cli.suites.means import means
from mari_cli.suites.suite import Row, Summary
from mari_cli.suites.tofu_metrics import MEMBERSHIP, METRICS, OFFERED, SUITE, UTILITY, VARIANTS

SETS = {"forget": "forget items", "retain": "retain items", "authors": "real authors", "facts": "world facts"}
"""The sets of questions, and their names in sentences."""
THEIRS = "log_truth_ratio_open_unlearning"
"""Column of OpenUnlearning's logs: the logarithm of a truth ratio with 1e-10 added to p(paraphrase)."""


def of_losses(
    name: str, answer_nll: float | None, paraphrase_nll: float | None, wrong_nlls: Sequence[float] | None
) -> Row:
    """The fields of a row of set ``name`` that the known losses of its answers give.

    A truth ratio needs the paraphrase and the wrong answers. A probability needs the answer, and in the sets
    `OFFERED` the wrong answers too.
    """
    row: Row = {}
    if answer_nll is not None:
        row["answer_nll"] = answer_nll
        if name not in OFFERED:
            row["probability"] = exp(-answer_nll)
        elif wrong_nlls is not None:
            row["probability"] = normalised_probability(answer_nll, wrong_nlls)
    if paraphrase_nll is not None and wrong_nlls is not None:
        row["paraphrase_nll"] = paraphrase_nll
        row["log_truth_ratio"] = log_truth_ratio(paraphrase_nll, wrong_nlls)
        row["log_truth_ratio_arithmetic"] = log_truth_ratio_arithmetic(paraphrase_nll, wrong_nlls)
        if name == "forget":
            row["paraphrase_probability"] = exp(-paraphrase_nll)
    return row


def with_their_ratio(row: Row) -> Row:
    """``row`` with OpenUnlearning's truth ratio, if it has that ratio or its losses."""
    if THEIRS in row or "paraphrase_nll" not in row:
        return row
    return row | {THEIRS: log_truth_ratio_open_unlearning(row["log_truth_ratio"], row["paraphrase_nll"])}


def summarise(rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
    """The metrics of one model; ``gold``: the retain model's rows, of the same forget items."""
    sets = {name: [row for row in rows if row["set"] == name] for name in SETS}
    metrics: dict[str, Estimate] = {}
    notes = [
        f"the {words} are left out: there are no answers to their questions"
        for name, words in SETS.items()
        if not sets[name]
    ]

    if not sets["forget"]:
        notes.append("forget quality is left out: there are no forget items")
    elif gold is None:
        notes.append("forget quality is left out: it needs the gold model's answers too")
    else:
        quality = _forget_quality(
            _pair_rows(sets["forget"], [row for row in gold if row["set"] == "forget"]), how
        )
        metrics |= quality.metrics
        notes += quality.notes

    if lacking := _lacking(sets):
        notes.append(f"model utility is left out: it needs {lacking}")
    else:
        for variant in VARIANTS:
            if all(_has(sets[name], f"log_truth_ratio{variant}") for name in UTILITY):
                values = [_components(sets[name], name, variant) for name in UTILITY]
                metrics[f"tofu/model_utility{variant}"] = model_utility_estimate(values, how)

    metrics |= means(METRICS, rows, how)
    attacked = _membership(rows, gold, how)
    return Summary(metrics | attacked.metrics, notes + attacked.notes)


def _forget_quality(pairs: "RowPairs", how: How) -> Summary:
    """Forget quality from the truth ratios of losses and, under its own name, from those with
    OpenUnlearning's 1e-10. A log with ratios alone has only the latter."""
    metrics: dict[str, Estimate] = {}
    notes = _unverified(pairs)
    sides = dict(zip(("model", "gold model"), zip(*pairs, strict=True), strict=True))
    unknown = [who for who, side in sides.items() if not _has(side, "log_truth_ratio")]
    if not unknown:
        own, golds = _columns(pairs, "log_truth_ratio")
        p_value, distance = forget_quality_estimates(own, golds, how)
        metrics |= {"tofu/forget_quality": p_value, "tofu/forget_quality_ks": distance}
    whole = [(with_their_ratio(mine), with_their_ratio(its)) for mine, its in pairs]
    theirs = any(_has(side, THEIRS) for side in sides.values())
    if theirs and all(_has(side, THEIRS) for side in zip(*whole, strict=True)):
        p_value, _ = forget_quality_estimates(*_columns(whole, THEIRS), how)
        metrics["tofu/forget_quality_open_unlearning"] = p_value
    if unknown and metrics:
        notes.append(
            f"`tofu/forget_quality` is left out: of the {' and of the '.join(unknown)} there are truth "
            "ratios alone, with OpenUnlearning's 1e-10 in them; `tofu/forget_quality_open_unlearning` takes "
            "both sides so"
        )
    elif unknown:
        notes.append(
            f"forget quality is left out: there are no truth ratios of the forget items of the "
            f"{' and of the '.join(unknown)}"
        )
    return Summary(metrics, notes)


def _lacking(sets: dict[str, list[Row]]) -> str | None:
    """What model utility lacks, as text; None if it lacks nothing."""
    of_columns = {
        "rouge_l_recall": "ROUGE-L recall",
        "probability": "probability",
        "log_truth_ratio": "truth ratio",
    }
    for column, words in of_columns.items():
        if lacking := [SETS[name] for name in UTILITY if not _has(sets[name], column)]:
            return f"the {words} of {', '.join(lacking)}"
    return None


def _membership(rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
    """Membership inference; empty without a holdout."""
    sides = [[row for row in rows if row["set"] == name] for name in MEMBERSHIP]
    if not all(sides):
        return Summary({})
    forget, holdout = (attacks_in(side) for side in sides)
    metrics = membership(forget, holdout, how, group=SUITE)
    if gold is None:
        return Summary(metrics)
    own, golds = (
        [[row["min_k"] for row in of_model if row["set"] == name and "min_k" in row] for name in MEMBERSHIP]
        for of_model in (rows, gold)
    )
    if not all([*own, *golds]):
        return Summary(metrics)
    leak = privleak("tofu/privleak", own, golds, how)
    return Summary(metrics | leak.metrics, leak.notes)


def _truth_ratios(name: str, rows: Sequence[Row], variant: str) -> list[float]:
    of = truth_ratio_of_forgotten if name == "forget" else truth_ratio_of_known
    return [of(row[f"log_truth_ratio{variant}"]) for row in rows]


def _components(rows: Sequence[Row], name: str, variant: str) -> Floats:
    """values_NC of model utility."""
    columns = [
        [row["probability"] for row in rows],
        [row["rouge_l_recall"] for row in rows],
        _truth_ratios(name, rows, variant),
    ]
    return np.array(columns, dtype=np.float64).T


def _has(rows: Sequence[Row], metric: str) -> bool:
    return bool(rows) and all(metric in row for row in rows)


RowPairs = Sequence[tuple[Row, Row]]
"""Items, each under a model and under gold."""
IDENTITY = {
    "tokens": (
        "reads with another tokenizer, or was asked other forget items",
        "number of answer tokens",
        "the gold model must read with the same tokenizer, so be of the same family (Llama beside Llama, Phi "
        "beside Phi): give the log of such a model, trained on the retain data",
    ),
    "key": (
        "was asked other forget items",
        "question or answer",
        "give the log of a model that was trained on the retain data and asked the same forget questions in "
        "the same prompt: the prompt's template counts too",
    ),
}
"""Columns that show whether an item is the same: the fault where they differ, what they hold, and a hint."""
SPLITS = {40: ("forget01", "retain99"), 200: ("forget05", "retain95"), 400: ("forget10", "retain90")}
"""By the number of TOFU's forget questions, their split and the matching retain model."""
PUBLISHED = 300
"""TOFU's published logs, and others after them, have the first 300 of forget10's 400 questions."""


def split_of(count: int) -> tuple[str, str] | None:
    """(forget split, retain model) of a log with ``count`` forget items; None where TOFU has no such."""
    return SPLITS.get(400 if count == PUBLISHED else count)


def _pair_rows(rows: Sequence[Row], gold: Sequence[Row]) -> RowPairs:
    """Pair the rows by item. Raises UserError where the two models were asked different items."""
    own = {row["item"]: row for row in rows}
    golds = {row["item"]: row for row in gold}
    if own.keys() != golds.keys():
        raise UserError(
            f"the gold model was asked other forget items: {_difference(own, golds)}",
            _which_gold(len(own), len(golds)),
        )
    for column, (wrong, what, hint) in IDENTITY.items():
        pairs = [(own[i].get(column), golds[i].get(column)) for i in own]
        other = [
            i for i, (mine, its) in zip(own, pairs, strict=True) if None not in (mine, its) and mine != its
        ]
        if other:
            raise UserError(
                f"the gold model {wrong}: {len(other)} of {len(own)} have another "
                f"{what}, item {other[0]} first",
                hint,
            )
    return [(own[i], golds[i]) for i in own]


def _which_gold(own: int, golds: int) -> str:
    """A hint which log fits ``own`` forget items as gold's, where a log with ``golds`` items was given."""
    fits, given = split_of(own), split_of(golds)
    if fits and given and fits != given:
        return (
            f"{own} questions are {fits[0]}'s and belong to the log of {fits[1]}; {golds} are {given[0]}'s, "
            f"as {given[1]} is asked: give `--gold-log` of {fits[1]}"
        )
    if fits and given:
        return (
            f"both are of {fits[0]}: give a log of {fits[1]} with {own} forget items, with the same numbers"
        )
    return (
        f"give as `--gold-log` that of a model trained on the retain data and asked the same {own} forget "
        "questions"
    )


def _columns(pairs: RowPairs, column: str) -> tuple[list[float], list[float]]:
    return [mine[column] for mine, _ in pairs], [its[column] for _, its in pairs]


def _unverified(pairs: RowPairs) -> list[str]:
    """A note where only the numbers of items show that two logs have the same items."""
    if any(mine is its or any(c in mine and c in its for c in IDENTITY) for mine, its in pairs):
        return []
    return [
        "that the gold model was asked the same questions could not be checked: the logs have neither texts "
        "nor token counts in common, so items are paired by their numbers"
    ]


def _difference(own: dict[int, Any], golds: dict[int, Any]) -> str:
    if len(own) != len(golds):
        return f"{len(golds)}, where the model was asked {len(own)}"
    missing = sorted(own.keys() - golds.keys())
    return f"{len(missing)} of its {len(own)} are missing, item {missing[0]} first"
