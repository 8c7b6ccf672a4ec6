"""OpenUnlearning's log of a TOFU evaluation (`TOFU_EVAL.json`, locuslab/open-unlearning), to rows of
`tofu_numbers`: for each of its metrics the `value_by_index`.

Its retain models' logs often hold `forget_truth_ratio` alone, which is all that forget quality needs. What it
defines in another way has a name of its own here: forget quality of ratios with 1e-10 beside p(paraphrase),
extraction strength and exact memorization without the EOS. Membership scores it gives the other way round,
higher where an item looks less trained on.
"""

import math
from collections.abc import Mapping
from sys import float_info
from typing import Any

from mari_cli.metrics.truth_ratio import log_truth_ratio_open_unlearning
from mari_cli.suites.log_columns import KINDS, RATIO, SCORE, SHARE, Found, Log, add, column_of
from mari_cli.suites.suite import Row
from mari_cli.suites.tofu_numbers import HOLDOUT, MEMBERSHIP, OFFERED, SETS

PREFIXES = {"forget": "forget", "retain": "retain", "authors": "ra", "facts": "wf"}
"""What OpenUnlearning's metrics of a set begin with."""
RATIOS = "forget_truth_ratio"
TOKENS = ("extraction_strength", "exact_memorization")
"""Of the forget items' answers."""
ATTACKS = {
    "loss": "mia_loss",
    "zlib": "mia_zlib",
    "min_k": "mia_min_k",
    "min_k_plus_plus": "mia_min_k_plus_plus",
    "reference": "mia_reference",
    "gradnorm": "mia_gradnorm",
}
"""Our names of attacks to its metrics."""


def is_open_unlearning(content: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) and "value_by_index" in value for value in content.values())


def read_open_unlearning(content: Mapping[str, Any], where: str) -> Log:
    """Every row of the log, which is called ``where`` in what is refused."""
    log = Log()
    read = set(_their_means())
    for name, prefix in PREFIXES.items():
        answer, rouge = f"{prefix}_Q_A_Prob", f"{prefix}_Q_A_ROUGE"
        paraphrase = answer if name in OFFERED else f"{prefix}_Q_A_PARA_Prob"
        wrong = f"{prefix}_Q_A_PERT_Prob"
        read |= {answer, paraphrase, wrong, rouge}
        lacking = [metric for metric in (answer, paraphrase, wrong) if metric not in content]
        if lacking and name == "forget" and _by_index(content, RATIOS):
            _add_ratios(log, content, where)
            continue
        if lacking and name != "forget":  # what was not asked for was not measured
            log.notes.append(f"the {SETS[name]} are left out: the log has no `{lacking[0]}`")
            continue
        found: Found = {
            "answer_nll": _field(content, answer, "avg_loss"),
            "paraphrase_nll": _field(content, paraphrase, "avg_loss"),
            "wrong_nlls": _field(content, wrong, "avg_loss"),
            "rouge_l_recall": _field(content, rouge, "rougeL_recall"),
            "rouge_1_recall": _field(content, rouge, "rouge1_recall"),
            "texts": _texts(content, rouge),
        }
        add(log, name, where, found)
        if name == "forget":
            theirs, values = found["paraphrase_nll"]
            paraphrases = column_of(values, KINDS["paraphrase_nll"], f"{where}: `{theirs}`")
            for row in log.rows:
                ratio = log_truth_ratio_open_unlearning(row["log_truth_ratio"], paraphrases[row["item"]])
                row["log_truth_ratio_open_unlearning"] = ratio
    read |= _add_tokens(log, content, where) | _add_membership(log, content, where)
    for theirs, ours in (_their_means() | _means_where_items_are()).items():
        entry = content.get(theirs)
        mean = entry.get("agg_value") if isinstance(entry, dict) else None
        if isinstance(mean, int | float):
            log.said[ours] = float(mean)
    if left := sorted(content.keys() - read):
        log.notes.append(f"not taken from the log: {', '.join(left)}")
    return log


def _add_ratios(log: Log, content: Mapping[str, Any], where: str) -> None:
    """Forget items of which the log gives truth ratios and no losses."""
    theirs, values = _field(content, RATIOS, "score")
    for item, ratio in sorted(column_of(values, RATIO, f"{where}: `{theirs}`").items()):
        # of a model that collapsed it may be below the smallest float: below all others, then
        log_ratio = math.log(max(ratio, float_info.min))
        columns = ("log_truth_ratio", "log_truth_ratio_open_unlearning")
        log.rows.append({"set": "forget", "item": item} | dict.fromkeys(columns, log_ratio))
    log.notes.append(
        f"the truth ratios of the forget items are those that the log gives (`{RATIOS}`): it has no losses "
        "to compute them from again"
    )


def _add_tokens(log: Log, content: Mapping[str, Any], where: str) -> set[str]:
    """Scores of the forget answers' tokens; returns what was taken."""
    taken = set()
    rows = {row["item"]: row for row in log.rows if row["set"] == "forget"}
    for metric in TOKENS:
        theirs, values = _field(content, metric, "score")
        if values is None or None in values.values():  # an answer of which nothing but the EOS is left
            continue
        column = column_of(values, SHARE, f"{where}: `{theirs}`")
        if column.keys() == rows.keys():
            taken.add(metric)
            for item, share in column.items():
                rows[item][f"{metric}_open_unlearning"] = share
    return taken


def _add_membership(log: Log, content: Mapping[str, Any], where: str) -> set[str]:
    """Every attack's scores of the forget items and of a holdout, which is a set of its own; returns what was
    taken."""
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
                row |= {"answer_nll": row.get("answer_nll", score)} if attack == "loss" else {attack: -score}
    if taken:
        log.rows.extend(rows[HOLDOUT].values())
    return taken | ({"privleak"} if ATTACKS["min_k"] in taken else set())


def _their_means() -> dict[str, str]:
    """OpenUnlearning's names of the means that ours should equal, to our names."""
    means = {"forget_quality": "tofu/forget_quality_open_unlearning", "model_utility": "tofu/model_utility"}
    for name, prefix in PREFIXES.items():
        probability = "Q_A_Prob_normalised" if name in OFFERED else "Q_A_Prob"
        means |= {
            f"{prefix}_{probability}": f"tofu/{name}/probability",
            f"{prefix}_Q_A_ROUGE": f"tofu/{name}/rouge_l_recall",
            f"{prefix}_Truth_Ratio": f"tofu/{name}/truth_ratio",
            f"{prefix}_truth_ratio": f"tofu/{name}/truth_ratio",
        }
    return means


def _means_where_items_are() -> dict[str, str]:
    """The same of what counts as read only where the log has it by item."""
    means = {metric: f"tofu/{attack}_auc" for attack, metric in ATTACKS.items()}
    means |= {metric: f"tofu/forget/{metric}_open_unlearning" for metric in TOKENS}
    return means | {"privleak": "tofu/privleak"}


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
