"""Sentences about the distance to gold, its terms, and the drift of data that no model has seen."""

from collections.abc import Sequence

from mari_cli.errors import counted
from mari_cli.metrics.corpora import AUC_FROM_GOLD, DISTANCE, FORGET_SIDE, FROM_GOLD, FROM_TARGET, KEPT_SIDE
from mari_cli.metrics.distance import lost, to_gold
from mari_cli.metrics.estimate import Estimate
from mari_cli.report.comparison import ComparisonRow, metric_of
from mari_cli.report.format import interval, listed, number, percent
from mari_cli.report.read import ModelResult, RunData

Points = list[tuple[str, str]]
"""A lead word and its text."""


def distance(row: ComparisonRow) -> tuple[list[str], Points]:
    """The distance in a sentence; its sides, their terms and what is left out as points. May be empty."""
    entered = row.run.entered
    whole, forget, kept = (row.estimate(name) for name in (DISTANCE, FORGET_SIDE, KEPT_SIDE))
    items = next((side.n for side in (forget, kept) if side), None)
    if entered is None or items is None:
        return [], []
    sentences = []
    if whole:
        sentences.append(f"The distance to gold is {_format(whole)}, the sum of both sides (n = {items}).")
    points = []
    if forget:
        terms = listed(_forget_terms(row, entered.forget))
        meaning = "0 is as gold, 1 as far from it as before"
        points.append(("Forget side", f"{_format(forget)}: {meaning}. The mean over {terms}."))
    if kept:
        terms = listed(_kept_terms(row, entered.kept))
        meaning = "the share of what should be kept that was lost"
        points.append(("Kept side", f"{_format(kept)}: {meaning}. The mean over {terms}."))
    reasons: dict[str, list[str]] = {}
    for name, reason in entered.left_out.items():
        reasons.setdefault(reason, []).append(metric_of(name).label)
    if reasons:
        told = "; ".join(f"{listed(labels)} ({reason})" for reason, labels in reasons.items())
        points.append(("Left out", f"{told}."))
    return sentences, points


def in_short(row: ComparisonRow) -> str:
    """The distance for a headline; empty without it."""
    whole = row.estimate(DISTANCE)
    if whole is None or row.role == "gold":
        return ""
    return f"The distance to gold is {_format(whole)}, where 0 is gold and 1 is before."


def no_nearer(runs: Sequence[RunData]) -> str:
    """That and why ``runs`` of one method are no nearer to gold than the model before; empty where they are,
    and of runs that unlearn nothing."""
    if not all("unlearned" in run.models for run in runs):
        return ""
    kept = [run for run in runs if run.training and run.training.kept_step == 0]
    if kept and len(kept) == len(runs):
        return "forgot nothing: no step was kept, it is the model from before"
    if kept:
        return f"forgot nothing in {len(kept)} of {counted(len(runs), 'run')}: no step was kept"
    sides = [(run.models["unlearned"].metrics.get(FORGET_SIDE), _is_past(run)) for run in runs]
    if all(side and past and (side.value if side.low is None else side.low) > 1 for side, past in sides):
        return "forgot too much: it is past gold, and further from it than before"
    if all(side and not past and max(side.value, side.high or 0.0) >= 1 for side, past in sides):
        return "forgot nothing that these items show: it is as far from gold as before"
    return ""


def _is_past(run: RunData) -> bool:
    """Whether the metrics of the forget side lie more past gold than short of it, on the whole."""
    of = run.models
    if run.entered is None or not {"target", "gold"} <= of.keys():
        return False
    terms = (_term(name, of["unlearned"], of["gold"], of["target"]) for name in run.entered.forget)
    return sum(term for term in terms if term is not None) < 0


def _term(name: str, here: ModelResult, gold: ModelResult, before: ModelResult) -> float | None:
    """How far from gold, of the way from there to before: above 0 short of gold, below 0 past it."""
    try:
        value, at_gold, at_before = (model.metrics[name].value for model in (here, gold, before))
    except KeyError:
        return None
    if at_gold == at_before:
        return None
    return float(to_gold(value, at_gold, at_before)) * (1 if at_before > at_gold else -1)


def distances(rows: list[ComparisonRow]) -> Points:
    """(model, its distance and both sides), the nearest first; models without a distance are left out."""
    found = [(estimate.value, row, estimate) for row in rows if (estimate := row.estimate(DISTANCE))]
    points = []
    for _, row, estimate in sorted(found, key=lambda entry: (entry[0] != entry[0], entry[0])):
        sides = [
            f"{_format(side)} on the {word} side"
            for word, name in (("forget", FORGET_SIDE), ("kept", KEPT_SIDE))
            if (side := row.estimate(name))
        ]
        nothing = no_nearer(row.runs) if row.role == "unlearned" else ""
        told = f"{_format(estimate)}: {listed(sides)} (n = {estimate.n})"
        points.append((row.label, f"{told}; {nothing}." if nothing else f"{told}."))
    return points


def drift(row: ComparisonRow) -> list[str]:
    """Unseen data: its loss against before and gold, and the AUC of the loss detector against gold's."""
    before, gold = row.estimate(FROM_TARGET), row.estimate(FROM_GOLD)
    apart = row.estimate(AUC_FROM_GOLD)
    sentences = []
    if before and row.role == "unlearned":
        theirs = row.estimate(FROM_TARGET, of="gold")
        beside = f"; gold is {_format_signed(theirs)} from there" if theirs else ""
        sentences.append(
            f"What was never seen moved by {_format_signed(before)} nats a token from "
            f"before (n = {before.n}){beside}.{_note_same(before)}"
        )
    if gold:
        sentences.append(
            f"The model's loss on what was never seen is {_format_signed(gold)} nats a "
            f"token from gold's (n = {gold.n}).{_note_same(gold)}"
        )
    if apart:
        sentences.append(
            "The AUC of telling forget data from unseen data by the loss is "
            f"{_format_signed(apart)} from gold's (n = {apart.n}).{_note_same(apart)}"
        )
    return sentences


def differing_distances(runs: list[RunData]) -> str | None:
    """A warning if distances to gold are means over different metrics, which must not be compared."""
    sets = {run.entered.metrics for run in runs if run.entered}
    if len(sets) < 2:
        return None
    common = set.intersection(*({*forget, *kept} for forget, kept in sets))
    every = {name for forget, kept in sets for name in (*forget, *kept)}
    labels = [metric_of(name).label for name in sorted(every - common)]
    return (
        f"The runs' distances to gold are not of the same metrics ({listed(labels)} not in all of them): "
        "do not compare these figures."
    )


def _forget_terms(row: ComparisonRow, names: tuple[str, ...]) -> list[str]:
    if not row.gold or not row.target:
        return []
    terms = []
    for name in names:
        if (signed := _term(name, row.model, row.gold, row.target)) is not None:
            where = "" if signed == 0 else " short of gold" if signed > 0 else " past gold"
            terms.append(f"{metric_of(name).label} {number(abs(signed))}{where}")
    return terms


def _kept_terms(row: ComparisonRow, names: tuple[str, ...]) -> list[str]:
    return [
        f"{metric_of(name).label} {percent(max(0.0, float(lost(here.value, before.value))))}"
        for name in names
        if (here := row.estimate(name)) and (before := row.estimate(name, of="target")) and before.value != 0
    ]


def _format(estimate: Estimate) -> str:
    ends = interval(estimate.low, estimate.high)
    same = estimate.low == estimate.high
    return number(estimate.value) + ("" if not ends or same else f" ({ends})")


def _format_signed(estimate: Estimate) -> str:
    value = number(estimate.value, signed=True)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return value
    return f"{value} ({number(estimate.low, signed=True)} to {number(estimate.high, signed=True)})"


def _note_same(estimate: Estimate) -> str:
    """A sentence that a difference is not separable from 0; empty if the interval excludes 0."""
    if estimate.low is None or estimate.high is None or not estimate.low <= 0 <= estimate.high:
        return ""
    return " That is not separable from no difference." if estimate.value else ""
