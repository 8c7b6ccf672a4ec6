"""From what a model made of TOFU's questions to TOFU's numbers, whoever asked them: this program, or the
authors of a published log.

A row is one question under one model. Its losses are mean token losses in nats; `log_truth_ratio` is the
logarithm of the truth ratio, with the geometric mean over the wrong answers.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.forget_quality import forget_quality_estimates
from mari_cli.metrics.model_utility import model_utility_estimate
from mari_cli.metrics.statistics import How, mean_estimate
from mari_cli.metrics.truth_ratio import (
    log_truth_ratio,
    log_truth_ratio_arithmetic,
    normalised_probability,
    truth_ratio_of_forgotten,
    truth_ratio_of_known,
)
from mari_cli.suites.membership import attacks_in, membership, privleak
from mari_cli.suites.suite import Row, Summary

SETS = {"forget": "forget items", "retain": "retain items", "authors": "real authors", "facts": "world facts"}
"""What is asked, and what it is called in words."""
UTILITY = ("retain", "authors", "facts")
"""Model utility is of these."""
OFFERED = ("authors", "facts")
"""Their probability is that of the true answer among the answers offered."""
HOLDOUT = "holdout"
"""Authors that no model has seen; of logs only OpenUnlearning's have some."""
MEMBERSHIP = ("forget", HOLDOUT)
"""Whom membership inference tells apart."""
VARIANTS = ("", "_arithmetic")
"""Of the mean over wrong answers in a truth ratio: geometric, and under its own name the other."""

OF_TOKENS = ("extraction_strength", "exact_memorization")
"""Of the forget items' answers."""
FORMS = ("", "_open_unlearning")
"""Ours, with the EOS, and that of OpenUnlearning's logs."""


def of_losses(name: str, answer_nll: float, paraphrase_nll: float, wrong_nlls: Sequence[float]) -> Row:
    """What a row of set ``name`` says of the losses of its answers."""
    row: Row = {
        "answer_nll": answer_nll,
        "probability": normalised_probability(answer_nll, wrong_nlls)
        if name in OFFERED
        else exp(-answer_nll),
        "log_truth_ratio": log_truth_ratio(paraphrase_nll, wrong_nlls),
        "log_truth_ratio_arithmetic": log_truth_ratio_arithmetic(paraphrase_nll, wrong_nlls),
    }
    return row | ({"paraphrase_probability": exp(-paraphrase_nll)} if name == "forget" else {})


def summarise(rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
    """The metrics of one model; ``gold``: the retain model's rows, of the same forget items."""
    sets = {name: [row for row in rows if row["set"] == name] for name in SETS}
    metrics: dict[str, Estimate] = {}
    notes = [
        f"the {words} are left out: there are no answers to their questions"
        for name, words in SETS.items()
        if not sets[name]
    ]
    settings: dict[str, Any] = asdict(how)

    if not sets["forget"]:
        notes.append("forget quality is left out: there are no forget items")
    elif gold is None:
        notes.append("forget quality is left out: it needs the gold model's answers too")
    else:
        pairs = _paired(sets["forget"], [row for row in gold if row["set"] == "forget"])
        own, golds = _columns(pairs, "log_truth_ratio")
        p_value, distance = forget_quality_estimates(own, golds, **settings)
        metrics |= {"tofu/forget_quality": p_value, "tofu/forget_quality_ks": distance}
        if all(_has(side, "log_truth_ratio_open_unlearning") for side in zip(*pairs, strict=True)):
            theirs = _columns(pairs, "log_truth_ratio_open_unlearning")
            p_value, _ = forget_quality_estimates(*theirs, **settings)
            metrics["tofu/forget_quality_open_unlearning"] = p_value
        notes += _unverified(pairs)

    lacking = [SETS[name] for name in UTILITY if not _has(sets[name], "rouge_l_recall")]
    if lacking:
        notes.append(f"model utility is left out: it needs the ROUGE-L recall of {', '.join(lacking)}")
    else:
        for variant in VARIANTS:
            values = [_components(sets[name], name, variant) for name in UTILITY]
            metrics[f"tofu/model_utility{variant}"] = model_utility_estimate(values, **settings)

    for name, asked in sets.items():
        for metric, values_N in _of_set(name, asked).items():
            metrics[f"tofu/{name}/{metric}"] = mean_estimate(values_N, **settings)
    attacked = _membership(rows, gold, how)
    return Summary(metrics | attacked.metrics, notes + attacked.notes)


def _membership(rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
    """Nothing where there is no holdout."""
    sides = [[row for row in rows if row["set"] == name] for name in MEMBERSHIP]
    if not all(sides):
        return Summary({})
    forget, holdout = (attacks_in(side) for side in sides)
    metrics = membership(forget, holdout, how, group="tofu")
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


def _of_set(name: str, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Per item, every metric of a set that is a mean over its items."""
    columns = ["probability", "paraphrase_probability", "rouge_l_recall", "rouge_1_recall"]
    columns += [f"{metric}{form}" for metric in OF_TOKENS for form in FORMS] if name == "forget" else []
    found = {metric: [row[metric] for row in rows] for metric in columns if _has(rows, metric)}
    for variant in VARIANTS:
        if _has(rows, f"log_truth_ratio{variant}"):
            found[f"truth_ratio{variant}"] = _truth_ratios(name, rows, variant)
    return found


def _truth_ratios(name: str, rows: Sequence[Row], variant: str) -> list[float]:
    of = truth_ratio_of_forgotten if name == "forget" else truth_ratio_of_known
    return [of(row[f"log_truth_ratio{variant}"]) for row in rows]


def _components(rows: Sequence[Row], name: str, variant: str) -> NDArray[np.float64]:
    """values_NC of model utility."""
    columns = [
        [row["probability"] for row in rows],
        [row["rouge_l_recall"] for row in rows],
        _truth_ratios(name, rows, variant),
    ]
    return np.array(columns, dtype=np.float64).T


def _has(rows: Sequence[Row], metric: str) -> bool:
    return bool(rows) and all(metric in row for row in rows)


Pairs = Sequence[tuple[Row, Row]]
"""One item under a model and under gold."""
IDENTITY = (("key", "question or answer"), ("tokens", "number of answer tokens"))
"""Columns that tell whether an item is the same, and what they are of."""


def _paired(rows: Sequence[Row], gold: Sequence[Row]) -> Pairs:
    """Refused where the two were not asked the same."""
    own = {row["item"]: row for row in rows}
    golds = {row["item"]: row for row in gold}
    hint = "take the answers of a model that was trained on the retain data, to the same forget questions"
    if own.keys() != golds.keys():
        raise UserError(f"the gold model was asked other forget items: {_difference(own, golds)}", hint)
    for column, what in IDENTITY:
        pairs = [(own[i].get(column), golds[i].get(column)) for i in own]
        other = [
            i for i, (mine, its) in zip(own, pairs, strict=True) if None not in (mine, its) and mine != its
        ]
        if other:
            raise UserError(
                f"the gold model was asked other forget items: {len(other)} of {len(own)} have another "
                f"{what}, item {other[0]} first",
                hint + (", through the same tokenizer" if column == "tokens" else ""),
            )
    return [(own[i], golds[i]) for i in own]


def _columns(pairs: Pairs, column: str) -> tuple[list[float], list[float]]:
    return [mine[column] for mine, _ in pairs], [its[column] for _, its in pairs]


def _unverified(pairs: Pairs) -> list[str]:
    """A note where nothing but their numbers says that two logs are of the same items."""
    if any(mine is its or any(c in mine and c in its for c, _ in IDENTITY) for mine, its in pairs):
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
