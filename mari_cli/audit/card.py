"""The robustness card: for each case before, now and gold, and a verdict in words.

Two models are told apart by a sign test over the items on which they differ: exact, one-sided, at `alpha`
divided by the number of cases (Bonferroni), so that a gold model of another seed is not caught by one of many
cases. A difference below `margin` is none, whatever its p-value: two golds differ by a little, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import binomtest

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, mean
from mari_cli.errors import counted
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import How, mean_estimate

AS_GOLD, TOO_FEW = "as gold", "too few items"
NO_POWER = "no power here"
"""Of an attack that does not tell the model before from gold: it clears nobody."""
BOUND = (
    "the bound from marginal information (Fano, Bayes) is about one token that is drawn from the pooled "
    "distribution of the answers: it says nothing about the classifier of traces, which sees losses and many "
    "tokens of an answer together, nor about the probe, which reads hidden states; their accuracies are "
    "measured beside it and may lie above it"
)
"""What the bound does and does not cover of the detectors on the card."""
DETECTORS = ("traces", "probe")
LESS, AS_BEFORE = "less than before", "as before"
FLOOR_UNKNOWN = "told from gold, floor unknown"
"""Of outputs that differ from gold's, where no second gold says how much two golds differ."""
TOLD = "can be told from gold"
CAUGHT = ("not forgotten", "comes back", "hidden, not gone", TOLD, "nearer to before")
"""Verdicts that say that something is left."""


@dataclass(frozen=True)
class CardRow:
    """One case, and what it found in each model."""

    attack: str
    case: str
    says: str
    models: dict[str, Estimate]
    """By role: `target`, `model`, `gold`."""
    verdict: str
    p_value: float | None
    """Of the sign test against gold, or against before where there is no gold; before Bonferroni."""
    detail: dict[str, Any] = field(default_factory=dict)


def card_row(
    attack: AuditAttack,
    case: Case,
    found: Mapping[str, CaseValues],
    *,
    tests: int,
    alpha: float,
    margin: float,
    how: How,
) -> CardRow:
    """The row of ``case``, one of ``tests`` that are made."""
    values = {role: of_model.values for role, of_model in found.items()}

    def above(more: Sequence[float | None], less: Sequence[float | None]) -> tuple[bool, float]:
        p_value, apart = sign_test(more, less)
        return p_value < alpha / tests and apart >= margin, p_value

    p_value, verdict = None, ""
    gold = values.get("gold")
    caught = case.verdict or attack.verdict
    if gold is None and case.against_gold:
        gold = [case.chance] * len(values["model"])
        caught = case.verdict or FLOOR_UNKNOWN
    if gold is not None:
        more, p_value = above(values["model"], gold)
        if more:
            verdict = caught
        elif _pairs(values["model"], gold) < least_items(tests, alpha):
            verdict = TOO_FEW
        else:
            powerless = "target" in values and not above(values["target"], gold)[0]
            verdict = NO_POWER if powerless else AS_GOLD
    elif "target" in values:
        less, p_value = above(values["target"], values["model"])
        verdict = LESS if less else NO_POWER if mean(values["target"]) < margin else AS_BEFORE
    models = {
        role: mean_estimate([value for value in of_model.values if value is not None], how)
        for role, of_model in found.items()
    }
    detail = {role: of_model.detail for role, of_model in found.items() if of_model.detail}
    return CardRow(attack.name, case.row, case.says, models, verdict, p_value, detail)


def least_items(tests: int, alpha: float) -> int:
    """The fewest items on which one of ``tests`` sign tests can come out below `alpha`: where all differ."""
    return math.floor(math.log2(tests / alpha)) + 1


def sign_test(more: Sequence[float | None], less: Sequence[float | None]) -> tuple[float, float]:
    """(p-value that ``more`` is not above ``less``, mean difference) over the items that both have."""
    pairs = [(a, b) for a, b in zip(more, less, strict=True) if a is not None and b is not None]
    above = sum(a > b for a, b in pairs)
    below = sum(a < b for a, b in pairs)
    apart = mean([a - b for a, b in pairs])
    if above + below == 0:
        return 1.0, apart
    return float(binomtest(above, above + below, 0.5, alternative="greater").pvalue), apart


def worst(rows: Sequence[CardRow]) -> list[CardRow]:
    """Of the cases that are one row of the card, the one where most came back beside gold (or beside
    nothing)."""
    groups: dict[tuple[str, str], list[CardRow]] = {}
    for row in rows:
        groups.setdefault((row.attack, row.case), []).append(row)
    return [max(group, key=_above) for group in groups.values()]


def conclusion(rows: Sequence[CardRow], *, gold: bool) -> str:
    """The card in one sentence."""
    if not gold:
        return (
            "there is no gold model, so nobody can say whether what comes back was taken from the forget "
            "data or can be guessed: the card gives before and now"
        )
    before = [row.models["target"].value for row in rows if row.attack == "plain" and "target" in row.models]
    if before and not any(before):
        return (
            "the model before recalls none of the measured items, so that there is nothing that an attack "
            "could bring back"
        )
    caught = [row for row in rows if row.verdict in CAUGHT]
    if any(row.attack == "plain" for row in caught):
        return "not forgotten: without any attack more of the forget data is recalled than by gold"
    cases = counted(len(rows), "case")
    few = [row for row in rows if row.verdict == TOO_FEW]
    weak = [row for row in rows if row.verdict == NO_POWER]
    if rows and len(few) + len(weak) == len(rows):
        return (
            f"nothing can be told: of {cases} {len(few)} have too few items to tell anything from gold, and "
            f"{len(weak)} bring no more out of the model before than out of gold"
        )
    back = [row for row in caught if row.verdict != TOLD]
    said = [f"none of {cases} brings back more than from gold"]
    if back:
        bring = "brings" if len(back) == 1 else "bring"
        said = [f"{len(back)} of {cases} {bring} back more than from gold: {_listed(back)}"]
    if told := [row for row in caught if row.verdict == TOLD]:
        said.append(f"it differs from gold by more than a second gold does: {_listed(told)}")
    if any(row.verdict == FLOOR_UNKNOWN for row in rows):
        said.append(
            "its outputs are told from gold's, and without a second gold of another seed (`second_gold=`) "
            "nobody can say whether they differ more than two golds do"
        )
    if few:
        have = "has" if len(few) == 1 else "have"
        said.append(f"{len(few)} of {cases} {have} too few items to tell anything from gold")
    if weak:
        say = "says nothing here: it brings" if len(weak) == 1 else "say nothing here: they bring"
        said.append(f"{len(weak)} of {cases} {say} no more out of the model before than out of gold")
    if not back and not any("target" in row.models for row in rows):
        said.append("there is no model before, so nobody can say which of them could bring anything back")
    return "; ".join(said)


def _listed(rows: Sequence[CardRow]) -> str:
    return ", ".join(f"{row.attack} ({row.case}): {row.verdict}".replace("_", " ") for row in rows)


def _above(row: CardRow) -> tuple[bool, float]:
    gold = row.models["gold"].value if "gold" in row.models else 0.0
    return row.verdict in CAUGHT, row.models["model"].value - gold


def _pairs(a: Sequence[float | None], b: Sequence[float | None]) -> int:
    return sum(x is not None and y is not None for x, y in zip(a, b, strict=True))
