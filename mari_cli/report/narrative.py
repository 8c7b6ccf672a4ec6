"""The result in plain sentences, for a reader who is responsible for the data and does not read tables.

Every sentence is computed from the numbers and claims no more than they show: without a gold model there is
no verdict; a loss above gold's is over-forgetting; a bound for one token is no bound for a whole answer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from mari_cli.errors import duration
from mari_cli.metrics.corpora import suite_of
from mari_cli.metrics.difference import difference_of_estimates
from mari_cli.metrics.estimate import Estimate, OverSeeds
from mari_cli.report.comparison import (
    Change,
    ComparisonRow,
    Standing,
    comparison_rows,
    confidence_of,
    differing_corpora,
    differing_items,
    metric_of,
    results,
    unshared,
)
from mari_cli.report.format import interval, listed, number, percent
from mari_cli.report.gold_distance import differing_distances, distance, distances, drift
from mari_cli.report.read import RunData
from mari_cli.report.verdict import decisive, guesses, headline, headline_of_model, headline_of_several
from mari_cli.suites.registry import judged_metrics


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value and its interval as they are printed; both are empty where nothing was measured."""

    value: str = ""
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric in plain words; ``reading`` is its verdict in a few words, ``note`` a further remark."""

    says: str
    n: int
    now: Figure
    before: Figure = Figure()
    gold: Figure = Figure()
    reading: str = ""
    tone: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A heading with its sentences, its points (each with a lead word) and its measures."""

    heading: str
    sentences: list[str] = field(default_factory=list)
    points: list[tuple[str, str]] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Narrative:
    headline: str
    warnings: list[str]
    claims: list[Claim]
    bound: Claim


def summarise(runs: list[RunData]) -> Narrative:
    rows = comparison_rows(runs)
    made = results(rows)
    if len(made) != 1:
        head, claims = headline_of_several(made), _claims_of_several(made)
    elif made[0].role == "model":
        head, claims = headline_of_model(made[0]), [*_beside_gold(made[0]), *_by_suite(made[0])]
        measures = _measures(made[0], [*judged_metrics("forgotten"), *judged_metrics("kept")])
        claims.insert(0, Claim(heading="What the model knows", measures=measures))
    else:
        head = headline(made[0])
        claims = [
            _was_known(made[0]),
            *_beside_gold(made[0]),
            _forgotten(made[0]),
            _kept(made[0]),
            *_by_suite(made[0]),
        ]
    return Narrative(headline=head, warnings=_warnings(rows, runs), claims=claims, bound=_bound(made, rows))


def confidence(runs: list[RunData]) -> str:
    """The confidence level of the intervals, as `95 %`."""
    levels = {run.setting("metrics.confidence") for run in runs} - {None}
    return f"{100 * float(levels.pop()):g} %" if len(levels) == 1 else "95 %" if not levels else "stated"


def _was_known(row: ComparisonRow) -> Claim:
    before = row.target.metrics if row.target else {}
    exact, accuracy = before.get("forget/exact_match"), before.get("forget/token_accuracy")
    size = exact or accuracy or before.get("forget/answer_nll")
    corpus = row.run.setting("forget.name")
    sentences = []
    if size:
        named = f" of corpus “{corpus}”" if corpus else ""
        model = row.run.setting("model.name") or row.run.setting("model.path") or "the model"
        sentences.append(f"{size.n} forget records{named} were to be removed from “{model}”.")
    if exact:
        sentences.append(f"Before, it completed {percent(exact.value)} of them word for word.")
    elif accuracy:
        sentences.append(f"Before, it predicted {percent(accuracy.value)} of their words (tokens) right.")
    if exact and exact.value < 0.1:
        sentences.append(
            "So it had not learned them by heart to begin with: there was little verbatim memory to remove, "
            "and a low figure afterwards is no achievement of the method."
        )
    sentences.append(_describe_run(row))
    return Claim(
        heading="What was to be forgotten", sentences=[sentence for sentence in sentences if sentence]
    )


def _describe_run(row: ComparisonRow) -> str:
    run, training = row.run, row.run.training
    if row.seeds:
        seeds = listed([str(seed) for seed in row.seeds])
        return f"The figures are means over {len(row.runs)} runs of “{run.name}” with the seeds {seeds}."
    if training is None:
        return ""
    took = f" in {duration(run.seconds)}" if run.seconds is not None else ""
    return f"The run “{run.name}” took {training.steps} training steps{took}, evaluation included."


def _forgotten(row: ComparisonRow) -> Claim:
    measures = _measures(row, judged_metrics("forgotten"))
    if row.gold is None:
        return Claim(
            heading="What changed on the forget data", sentences=_without_gold(row), measures=measures
        )
    return Claim(
        heading="Should be as for a model that never saw the data",
        sentences=[
            "The yardstick is the gold model, trained without the forget data. "
            "Best is to be like it, not to be as wrong as possible."
        ],
        measures=measures,
    )


READS: dict[Standing | Change, tuple[str, str]] = {
    Standing.at: ("as gold", "good"),
    Standing.short: ("not yet forgotten", "short"),
    Standing.away: ("further from gold than before", "short"),
    Standing.past: ("over-forgotten", "past"),
    Standing.off: ("not as gold", "past"),
    Change.kept: ("as before", "good"),
    Change.better: ("better than before", "good"),
    Change.worse: ("worse than before", "past"),
}
"""In words, and the colour of the words."""


def _figure(name: str, estimate: Estimate | None) -> Figure:
    if estimate is None:
        return Figure()
    low, high = estimate.low, estimate.high
    if not metric_of(name).is_share or metric_of(name).high != 1:
        return Figure(value=number(estimate.value), interval=interval(low, high))
    ends = "" if low is None or high is None else f"{percent(low)} – {percent(high)}".replace(" % –", " –")
    return Figure(value=percent(estimate.value), interval=ends)


def _measures(row: ComparisonRow, names: Iterable[str]) -> list[Measure]:
    """One of each of the metrics that ``row`` has."""
    return [_measure(row, name, here) for name in names if (here := row.estimate(name))]


def _measure(row: ComparisonRow, name: str, here: Estimate) -> Measure:
    gold, metric = row.estimate(name, of="gold"), metric_of(name)
    read = row.standing(name) if metric.role == "forgotten" else row.change(name)
    reading, tone = READS[read] if read else ("", "")
    note = ""
    if guesses(row, name):
        reading, tone, note = "", "", "The model guessed before already, so this cannot show a loss."
    elif read is Standing.past and gold:
        note = metric.above_gold if here.value > gold.value else metric.below_gold
    elif metric.is_test:
        level = number(1 - confidence_of(row.runs))
        note = f"Above {level} the test does not tell the model from gold; it is no degree of forgetting."
    return Measure(
        says=metric.says or metric.label,
        n=here.n,
        before=_figure(name, row.estimate(name, of="target")),
        now=_figure(name, here),
        gold=_figure(name, gold),
        reading=reading,
        tone=tone,
        note=note,
    )


def _without_gold(row: ComparisonRow) -> list[str]:
    sentences = [
        "No gold model (the same model trained without the forget data) was measured. "
        "How such a model would answer is unknown, so the figures can be read against before only."
    ]
    forget, unseen = row.estimate("forget/answer_nll"), row.estimate("holdout/answer_nll")
    if forget and unseen and (apart := difference_of_estimates(forget, unseen)):  # items differ
        if not apart.separable:
            level = "is at the level of data that no model saw"
        elif forget.value < unseen.value:
            level = "is still below that of data that no model saw, so it looks familiar"
        else:
            level = "is above that of data that no model saw, which hints at over-forgetting"
        sentences.append(
            f"Its loss on the forget data ({number(forget.value)}) {level} ({number(unseen.value)}). "
            "That is a hint only: unseen data may be easier or harder by itself."
        )
    return sentences


def _beside_gold(row: ComparisonRow) -> list[Claim]:
    """Claims about the distance to gold and about unseen data; empty if both are unknown."""
    sentences, points = distance(row)
    claims = (
        Claim(heading="How far from gold, in one figure", sentences=sentences, points=points),
        Claim(heading="What no model has seen", sentences=drift(row)),
    )
    return [claim for claim in claims if claim.sentences or claim.points]


def _kept(row: ComparisonRow) -> Claim:
    measures = _measures(row, judged_metrics("kept"))
    none = "Nothing was measured on data that should be kept, so the price of forgetting is not known."
    return Claim(heading="Should be as before", measures=measures, sentences=[] if measures else [none])


def _bound(made: list[ComparisonRow], rows: list[ComparisonRow]) -> Claim:
    """The Fano bound with its limits: always both."""
    heading = "What the bound says, and what it does not"
    told = [(row, found) for row in made if (found := row.estimate("marginal/fano_accuracy_bound"))]
    if not any(row.estimate("forget/answer_nll") for row in made):
        return Claim(heading=heading)  # a report of a suite or of benchmarks alone needs no bound
    if not told:
        return Claim(
            heading=heading,
            sentences=["Marginal information was not measured: there is no bound to read here."],
        )
    sentences = []
    worst, bound = max(told, key=lambda of: math.inf if math.isnan(of[1].value) else of[1].value)
    bayes, prior = worst.estimate("marginal/bayes_accuracy"), worst.run.setting("metrics.prior")
    chance = max(float(prior), 1 - float(prior)) if prior is not None else 0.5
    if not math.isfinite(bound.value):
        sentences.append(f"The bound is {number(bound.value)}, not a finite number, and says nothing.")
    else:
        sentences.append(
            "Somebody who sees one single token of the model's predictions, "
            "and has to say whether the forget data played a part in it, "
            f"is right in at most {_fine(bound.value)} of cases; guessing gives {_fine(chance)}."
        )
        if bayes:
            sentences.append(f"The best possible detector reaches {_fine(bayes.value)} on these sets.")
        if len(told) > 1:
            sentences.append(f"That is “{worst.label}”, the most detectable of the runs by this measure.")
        if bayes and math.isfinite(bayes.value) and bayes.value > bound.value + 1e-9:
            sentences.append(
                "This bound lies below the best detector's accuracy, which cannot be: "
                "the measurement is wrong, do not use either number."
            )
    before = [
        f"{_fine(value.value)} {'for ' if row.role == 'gold' else ''}{row.label}"
        for row in rows
        if row.role in ("target", "gold") and (value := row.estimate("marginal/fano_accuracy_bound"))
    ]
    if before:
        sentences.append(f"The same bound was {listed(before)}.")
    sentences.append(
        "It speaks of one token averaged over the whole data, not of whole answers: "
        "a model that recites every forgotten answer can have a bound close to guessing. "
        "Whether answers are still known is told by recall, exact match and the membership AUC; "
        "whether they can be brought back by further training is told by nothing here."
    )
    return Claim(heading=heading, sentences=sentences)


# -- a run without unlearning, several runs --------------------------------------------------------


def _by_suite(row: ComparisonRow) -> list[Claim]:
    """A claim for each suite: first metrics that should be as gold's, then those that should be as before."""
    by_suite: dict[str | None, list[str]] = {}
    for name in (*judged_metrics("forgotten", suites=True), *judged_metrics("kept", suites=True)):
        by_suite.setdefault(suite_of(name), []).append(name)
    return [
        Claim(heading=f"What {suite.upper()} says", measures=measures)
        for suite, names in by_suite.items()
        if suite and (measures := _measures(row, names))
    ]


MOST_SENTENCES = 12


def _claims_of_several(made: list[ComparisonRow]) -> list[Claim]:
    unlearned = [row for row in made if row.role == "unlearned" or (row.gold and decisive(row))]
    if not unlearned:
        return []
    sentences = []
    if any(row.gold for row in unlearned):
        sentences.append(
            "The yardstick is the gold model, trained without the forget data. "
            "Best is to be like it: less forgetting and more forgetting than gold's are both faults."
        )
    shown = unlearned[:MOST_SENTENCES]
    if len(unlearned) > len(shown):
        sentences.append(f"Here are the first {len(shown)} of {len(unlearned)} runs; the table has all.")
    claims = [
        Claim(heading="Run by run", sentences=sentences, points=[(row.label, headline(row)) for row in shown])
    ]
    if points := distances(made):
        told = "The nearest first; 0 is gold, 1 as far as before with nothing lost."
        claims.append(
            Claim(
                heading="How far from gold, in one figure", sentences=[told], points=points[:MOST_SENTENCES]
            )
        )
    return claims


def _warnings(rows: list[ComparisonRow], runs: list[RunData]) -> list[str]:
    warnings = []
    if confidence(runs) == "stated":
        warnings.append("Intervals are of several levels; a difference on the same items is of the highest.")
    if differing := differing_corpora(runs):
        warnings.append(
            f"The runs were not measured on the same data ({listed(differing)} "
            f"differ{'s' * (len(differing) == 1)}): do not compare their numbers."
        )
    elif other_items := differing_items(rows):
        warnings.append(
            f"Not all runs were asked the same items ({'; '.join(other_items)}), "
            "so on these sets they are compared by their intervals alone."
        )
    if apart := differing_distances(runs):
        warnings.append(apart)
    if some := unshared(rows):
        shared = set.intersection(*(set(row.model.metrics) for row in results(rows)))
        warnings.append(
            f"Not all runs were asked the same: {'; '.join(some)}. "
            + ("What one was not asked is compared with nothing." if shared else "No metric is of all.")
        )
    for row in rows:
        lost = [metric_of(name).label for name, e in row.model.metrics.items() if not math.isfinite(e.value)]
        if lost:
            warnings.append(f"Not finite for “{row.label}”: {listed(lost)}.")
    return warnings


def _fine(share: float) -> str:
    """A percentage with a decimal, because accuracies near one half need it."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else number(share)


def estimate_words(estimate: Estimate) -> str:
    """A value with its interval and n, for a tooltip."""
    ends = interval(estimate.low, estimate.high)
    words = f"{number(estimate.value)}{f' ({ends})' if ends else ''}, n = {estimate.n}"
    if isinstance(estimate, OverSeeds):
        each = ", ".join(f"{number(value)} (seed {seed})" for seed, value in estimate.values.items())
        words += f", mean of {each}"
    return words
